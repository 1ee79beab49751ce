"""Source and target share no image, and all methods train on the same ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from benchmarks import datasets
from benchmarks import networks
from benchmarks import soseleto_transfer
from benchmarks import transfer_data

# Keras' callbacks and NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

DATA_DIR = Path(__file__).parents[2] / "../shared/data/tfds"


def _settings(case="mnist", **changes):
    return {
        **soseleto_transfer.COMMON,
        **soseleto_transfer.CASES[case],
        "num_target": 20,
        "num_source": 64,
        "epochs": 1,
        "method": "soseleto",
        "seed": 0,
        **changes,
    }


@pytest.fixture
def small(monkeypatch):
    """Noise in the place of all data sets, of their shapes."""

    def load(name, data_dir=None, num_train=None, seed=0):
        side, channels = {"usps": (16, 1), "cifar10": (32, 3)}.get(
            name, (28, 1)
        )
        count = num_train or 400
        shape = (count + 50, side, side, channels)
        x = np.random.default_rng(0).random(shape).astype("float32")
        y = np.arange(len(x)) % 10
        ids = np.arange(count)
        return datasets.Dataset(
            x[:count], y[:count], x[count:], y[count:], 10, ids
        )

    monkeypatch.setattr(transfer_data.datasets, "load", load)


@pytest.mark.parametrize(
    "case, num_classes",
    [("mnist", 5), ("usps", 5), ("coloured", 5), ("coloured_all", 10)],
)
def test_data_has_one_shape_and_labels_from_zero(small, case, num_classes):
    data = transfer_data.make(_settings(case))
    x, y = data.source
    assert x.shape == (64, 28, 28, 1) and x.dtype == np.float32
    assert 0 <= x.min() and x.max() <= 1
    assert set(y) == set(range(num_classes))
    assert data.target[0].shape == (20, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(data.target[1]), [4] * 5)
    assert set(data.evaluation[1]) == set(range(5))


def test_sources_of_the_target_s_digits_leave_its_images_out(small):
    # More than there are: all that are free.
    settings = _settings("coloured_all", num_source=390)
    data = transfer_data.make(settings)
    assert len(data.source_ids) == 380
    assert not set(data.source_ids) & set(data.target_ids)


@pytest.mark.parametrize("case", ["mnist", "coloured_all"])
def test_unlabelled_images_are_neither_target_nor_source(small, case):
    data = transfer_data.make(_settings(case, num_source=190))
    mnist = transfer_data.datasets.load("mnist")
    unlabelled = {image.tobytes() for image in data.unlabelled}
    for ids in (data.target_ids, data.source_ids):
        assert not unlabelled & {i.tobytes() for i in mnist.x_train[ids]}
    classes = {i.tobytes(): y for i, y in zip(mnist.x_train, mnist.y_train)}
    assert {classes[image] for image in unlabelled} == {5, 6, 7, 8, 9}


def test_held_out_images_are_neither_target_nor_test(small):
    data = transfer_data.make(_settings(held_out=True))
    held_out = {image.tobytes() for image in data.evaluation[0]}
    assert len(held_out) == 180
    assert not held_out & {image.tobytes() for image in data.target[0]}


def test_coloured_digits_are_differences():
    rng = np.random.default_rng(0)
    digits, background = np.zeros((2, 28, 28, 1)), np.full((2, 32, 32, 3), 0.3)
    digits[0] = 1
    images = transfer_data._coloured(rng, digits, background)
    np.testing.assert_allclose(images[0], 0.7)
    np.testing.assert_allclose(images[1], 0.3)


def test_colours_become_grey_and_sizes_those_of_mnist():
    images = np.full((3, 32, 32, 3), 0.5, "float32")
    grey = transfer_data._as_mnist(images)
    assert grey.shape == (3, 28, 28, 1)
    np.testing.assert_allclose(grey, 0.5, atol=1e-3)


def test_seed_decides_on_the_images(small):
    data, again, other, more = (
        transfer_data.make(_settings(seed=seed, num_target=count))
        for seed, count in ((1, 20), (1, 20), (2, 20), (1, 25))
    )
    np.testing.assert_array_equal(data.source[0], again.source[0])
    np.testing.assert_array_equal(data.target_ids, again.target_ids)
    assert set(data.target_ids) < set(more.target_ids)
    assert set(data.target_ids) != set(other.target_ids)


def test_labels_are_those_of_the_digits():
    if not DATA_DIR.exists():
        pytest.skip(f"needs MNIST and USPS at {DATA_DIR}")
    settings = _settings("usps", num_target=25)
    data = transfer_data.make(settings, str(DATA_DIR))
    mnist = datasets.load("mnist", str(DATA_DIR))
    rows = data.target_ids
    np.testing.assert_array_equal(data.target[1] + 5, mnist.y_train[rows])
    np.testing.assert_array_equal(data.target[0], mnist.x_train[rows])
    assert len(data.evaluation[1]) == 4861


def test_run_and_report(small, monkeypatch):
    # LeNet takes seconds to trace.
    monkeypatch.setitem(networks.NETWORKS, "lenet", networks.mlp)
    two_stages = list(soseleto_transfer.FIRST_STAGE)
    metrics = {
        method: soseleto_transfer.run(_settings(method=method))
        for method in ("finetune", "joint", "soseleto", *two_stages)
    }
    # The others are parts of these.
    metrics["target"] = metrics["fixed"] = metrics["joint"]
    steps = {method: values["steps"] for method, values in metrics.items()}
    assert steps.pop("finetune") == 4
    # 64 source images, then 180 unlabelled ones, in batches of 32.
    assert {steps.pop(method) for method in two_stages} == {2 + 5}
    assert set(steps.values()) == {2}
    useful = metrics["soseleto"]["weights"]["useful"]
    assert set(useful) == {"0", "1", "2", "3", "4"}
    json.dumps(metrics, allow_nan=False)
    records = [
        {
            "seed": 0,
            "settings": _settings(method=method),
            "metrics": metrics[method],
        }
        for method in soseleto_transfer.METHODS
    ]
    report = soseleto_transfer.EXPERIMENT.report(records)
    assert len({len(row) for row in report.table}) == 1
    assert len(report.table) == 1 + len(soseleto_transfer.METHODS)


@pytest.mark.parametrize("name, reached", [("joint", 8), ("fixed", 2)])
def test_fixed_weights_keep_the_target_out_of_shared_layers(name, reached):
    pair = soseleto_transfer.build(_settings())
    network, x = getattr(pair, name), np.ones((4, 28, 28, 1), "float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network([x, x])[1] ** 2)
    gradients = tape.gradient(loss, pair.target.trainable_variables)
    assert sum(gradient is not None for gradient in gradients) == reached


def test_unknown_case_is_an_error():
    with flagsaver.flagsaver():
        with pytest.raises(flags.IllegalFlagValueError, match="--cases"):
            flags.FLAGS.cases = ["mnist", "imagenet"]
