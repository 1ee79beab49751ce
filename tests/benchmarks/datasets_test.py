"""Images and labels belong together, whatever is left out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import datasets
from benchmarks import plans
from benchmarks import tasks

DATA_DIR = Path(__file__).parents[2] / "../shared/data/tfds"


def test_digits_are_split_once_for_all():
    data = datasets.load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.num_classes == 10
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    other = datasets.load("digits", num_train=100, seed=1)
    np.testing.assert_array_equal(other.x_test, data.x_test)


def test_subset_is_stratified_and_keeps_ids():
    data = datasets.load("digits")
    subset = datasets.load("digits", num_train=200, seed=3)
    counts = np.bincount(subset.y_train)
    assert counts.min() >= 19
    rows = [list(data.train_ids).index(i) for i in subset.train_ids]
    np.testing.assert_array_equal(subset.x_train, data.x_train[rows])
    np.testing.assert_array_equal(subset.y_train, data.y_train[rows])


def test_unknown_data_set_is_an_error():
    with pytest.raises(ValueError, match="Unknown data set"):
        datasets.load("imagenet")


def test_task_has_the_noise_it_was_asked_for():
    task = tasks.make(plans.noisy(noise=0.4))
    assert np.mean(task.wrong) == pytest.approx(0.4, abs=0.01)
    again = tasks.make(plans.noisy(noise=0.4))
    np.testing.assert_array_equal(task.y_given, again.y_given)


def test_held_out_labels_are_noisy_and_not_trained_on():
    whole = tasks.make(plans.noisy())
    task = tasks.make(plans.noisy(held_out=0.25))
    x, y = task.evaluation
    assert len(y) == 360 and len(task.x) == 1437 - 360
    given = {image.tobytes(): y for image, y in zip(whole.x, whole.y_given)}
    assert [given[image.tobytes()] for image in x] == list(y)
    assert not {image.tobytes() for image in x} & {
        image.tobytes() for image in task.x
    }


def test_clean_set_is_apart_from_training_data():
    settings = plans.selection(dataset="digits", num_train=400, num_clean=50)
    task = tasks.make(settings)
    x, y = task.clean
    rows = {image.tobytes() for image in task.x}
    assert (len(task.x), len(x)) == (400, 50)
    assert not any(image.tobytes() in rows for image in x)


def test_human_noise_for_other_data_is_an_error():
    with pytest.raises(ValueError, match="CIFAR-10N"):
        tasks.make(plans.noisy(noise_kind="human"))


def test_human_labels_lie_at_their_images():
    if not DATA_DIR.exists():
        pytest.skip(f"needs CIFAR-10 and CIFAR-10N at {DATA_DIR}")
    data = datasets.load("cifar10", str(DATA_DIR), num_train=2000)
    settings = plans.noisy(dataset="cifar10", **plans.HUMAN)
    given = tasks.human_labels(data, DATA_DIR, settings)
    assert np.mean(given != data.y_train) == pytest.approx(0.402, abs=0.04)
    shifted = dataclasses.replace(data, y_train=np.roll(data.y_train, 1))
    with pytest.raises(ValueError, match="not in the order"):
        tasks.human_labels(shifted, DATA_DIR, settings)
