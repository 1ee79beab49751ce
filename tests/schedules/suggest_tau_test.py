"""Noise rates from predictions whose noise is known."""

import keras
import numpy as np
import pytest

from keras_bilevel import schedules


def predictions(rate, size=1500, classes=10, seed=0, accuracy=1.0):
    """What a network that learned from noisy labels predicts, and labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=size)
    shift = rng.integers(1, classes, size=size)
    labels = np.where(rng.random(size) < rate, (truth + shift) % classes, truth)
    shift = rng.integers(1, classes, size=size)
    wrong = rng.random(size) >= accuracy
    believed = np.where(wrong, (truth + shift) % classes, truth)
    # Calibrated on noisy labels, give or take.
    others = rate + 0.05 * rng.random(size)
    probs = np.repeat(others[:, None] / (classes - 1), classes, axis=1)
    probs[np.arange(size), believed] = 1 - others
    return probs, labels, np.mean(labels != truth)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45])
def test_interval_covers_the_noise(rate):
    probs, labels, actual = predictions(rate)
    tau, low, high = schedules.suggest_tau(probs, labels)
    assert low <= actual <= high
    assert low <= tau <= high < tau + 0.04
    assert tau == pytest.approx(actual, abs=0.01)


@pytest.mark.parametrize("rate, least", [(0.0, 60), (0.2, 47), (0.45, 47)])
def test_intervals_hold_as_often_as_they_say(rate, least):
    hits = 0
    for seed in range(60):
        probs, labels, _ = predictions(rate, size=500, seed=seed)
        _, low, high = schedules.suggest_tau(probs, labels, level=0.9)
        hits += low <= rate <= high
    # Three standard errors below 54.
    assert hits >= least


def test_more_examples_make_it_surer():
    widths = []
    for size in (200, 3200):
        probs, labels, _ = predictions(0.2, size=size)
        _, low, high = schedules.suggest_tau(probs, labels)
        widths.append(high - low)
    assert widths[1] < 0.4 * widths[0]
    probs, labels, _ = predictions(0.0, size=50)
    assert schedules.suggest_tau(probs, labels).high > 0.05


def test_weak_networks_overestimate():
    probs, labels, _ = predictions(0.2, accuracy=0.8)
    assert schedules.suggest_tau(probs, labels).low > 0.2


def test_by_hand():
    # Thresholds: (0.9 + 0.7 + 0.2) / 3 = 0.6 and (0.8 + 0.6) / 2 = 0.7. The
    # last row is not counted. Class 0: 1 of 3 wrong; class 1: 0 of 1, for 2.
    first = np.array([0.9, 0.7, 0.2, 0.2, 0.4])
    probs = np.stack([first, 1 - first], axis=1)
    labels = np.array([0, 0, 0, 1, 1])
    expected = (3 * (1 / 3) + 2 * 0) / 5
    assert schedules.suggest_tau(probs, labels).tau == pytest.approx(expected)


def test_kinds_of_labels():
    probs, labels, _ = predictions(0.2, size=300)
    expected = schedules.suggest_tau(probs, labels)
    one_hot = keras.utils.to_categorical(labels, 10)
    for given in (labels[:, None], one_hot, labels.astype("uint8")):
        assert schedules.suggest_tau(probs, given) == expected
    other = schedules.suggest_tau(probs, labels, seed=1)
    assert other.tau == expected.tau and other != expected


def test_one_sigmoid_column_is_two_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    second = np.clip(0.8 * labels + rng.normal(0.1, 0.2, 400), 0, 1)
    noisy = np.where(rng.random(400) < 0.2, 1 - labels, labels)
    both = np.stack([1 - second, second], axis=1)
    expected = schedules.suggest_tau(both, noisy)
    assert expected.low < np.mean(noisy != labels) < expected.high
    for probs in (second, second[:, None]):
        for kind in ("int64", "bool", "float32"):
            given = noisy.astype(kind)
            assert schedules.suggest_tau(probs, given) == expected
            assert schedules.suggest_tau(probs, given[:, None]) == expected


def test_classes_without_examples():
    probs, labels, _ = predictions(0.2, size=300)
    wide = np.pad(probs, ((0, 0), (0, 3)))
    assert schedules.suggest_tau(wide, labels).tau == pytest.approx(
        schedules.suggest_tau(probs, labels).tau
    )


@pytest.mark.parametrize(
    "pred_probs, labels, message",
    [
        (np.zeros((3, 1, 1)), [0, 1, 2], r"Expected shape \(n, num_classes\)"),
        (np.zeros(3), [0, 1, 2], r"integers in \[0, 2\)"),
        ([0.2, 0.9], [0.0, 0.5], "integers in"),
        ([0.2, np.nan], [0, 1], "sigmoid"),
        ([[-3.0], [2.0]], [0, 1], "from -3.0 to 2.0.*sigmoid"),
        (np.zeros((0, 2)), [], r"Expected shape \(n, num_classes\)"),
        ([[3.0, -1.0]], [0], "softmax"),
        ([[1.5, -0.5]], [0], "softmax"),
        ([[np.nan, 1.0]], [0], "softmax"),
        ([[0.5, 0.5]], [2], "integers in"),
        ([[0.5, 0.5]], [-1], "integers in"),
        ([[0.5, 0.5]], [0.0], "integers in"),
        ([[0.5, 0.5]], [0, 1, 1], "integers in"),
    ],
)
def test_error_for_wrong_data(pred_probs, labels, message):
    with pytest.raises(ValueError, match=message):
        schedules.suggest_tau(pred_probs, labels)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_error_for_invalid_level(level):
    with pytest.raises(ValueError, match="`level`"):
        schedules.suggest_tau([[0.5, 0.5]], [0], level=level)
