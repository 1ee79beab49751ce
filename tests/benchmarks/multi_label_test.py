"""Several labels an image: the images that are made, and a run."""

import numpy as np
import pytest

from benchmarks import datasets
from benchmarks import multi_label
from benchmarks import runner
from benchmarks.journal import Journal

tfds = pytest.importorskip("tensorflow_datasets")


def test_a_quarter_holds_an_image_at_half_its_size():
    images = np.stack([np.full((4, 6, 1), i, "float32") for i in (1, 2, 3)])
    x, y = multi_label.quarters(images, np.array([0, 1, 3]), 50, 4, seed=0)
    assert x.shape == (50, 4, 6, 1) and y.shape == (50, 4)
    assert set(np.unique(x)) == {0, 1, 2, 3}
    for image, label in zip(x[..., 0], y):
        corners = image[::2, ::3].ravel()  # One pixel of each quarter.
        np.testing.assert_array_equal(
            image, corners.reshape(2, 2).repeat(2, 0).repeat(3, 1)
        )
        expected = {int(c) - 1 if c < 3 else 3 for c in corners if c}
        assert set(np.flatnonzero(label)) == expected != set()


def test_the_mean_leaves_out_classes_that_do_not_occur():
    y = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    scores = np.array([[0.9, 0, 5], [0.1, 1, 5], [0.2, -1, 5]])
    # Class 1: right at ranks 1 and 3.
    expected = (1 + (1 + 2 / 3) / 2) / 2
    assert multi_label.mean_average_precision(y, scores) == pytest.approx(
        expected
    )


def _images(name, data_dir=None):
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 32, 32, 3), "float32"), np.arange(40) % 10
    return datasets.Dataset(x, y, x, y, 10, np.arange(40))


TINY = {
    "data": {"dataset": "quarters", "network": "small_cnn"},
    "num_train": [64, 128],
    "epochs": 1,
    "seeds": [0, 1],
}


def test_both_methods_train_on_the_same_data(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", _images)
    seen, make = [], multi_label.load

    def load(*args):
        seen.append(make(*args))
        return seen[-1]

    monkeypatch.setattr(multi_label, "load", load)
    journal = Journal(tmp_path / "multi_label.jsonl")
    records = runner.execute(
        multi_label.EXPERIMENT, TINY, journal, multi_label.run
    )
    assert len(records) == len(seen) == 8
    for (train, test), (same, _) in zip(seen[::2], seen[1::2]):
        np.testing.assert_array_equal(train[0], same[0])
        assert not np.array_equal(train[0][:40], test[0][:40])
        assert -1 <= train[0].min() < 0 < train[0].max() <= 1
    report = multi_label.EXPERIMENT.report(records)
    assert len(report.table) == 5
    for record in records:
        found = record["metrics"]
        assert 0 < found["test"] < 1
        assert found["gap"] == pytest.approx(found["train"] - found["test"])


def test_voc_is_read_with_all_labels_of_an_image():
    settings = {"dataset": "voc", "num_train": 3, "seed": 0}
    with tfds.testing.mock_data(num_examples=5):
        (x, y), (x_test, y_test) = multi_label.load(settings, None)
    size = multi_label.VOC_SIZE
    assert x.shape == (3, size, size, 3) and y.shape == (3, 20)
    assert len(x_test) == len(y_test) == 5
    assert -1 <= x.min() < x.max() <= 1
    assert set(np.unique(y)) <= {0, 1}
