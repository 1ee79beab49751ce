"""The callback behind Fig. 1(d)."""

import copy
import io

import keras
import numpy as np
import pytest

import keras_bilevel as kb

WRONG = np.array([True, False, False, True, False, False])


class Weighting:
    """Example `i` weighs `1 + i * steps`."""

    def __init__(self):
        self.steps = 0

    @property
    def example_weights(self):
        return np.float32(1) + np.arange(6, dtype="float32") * self.steps


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.weighting = Weighting()

    def call(self, x):
        return self.dense(x)


def fit(callback, epochs, model=None):
    model = model or Model()
    model.compile("sgd", "mse")
    step = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(
            model.weighting, "steps", model.weighting.steps + 1
        )
    )
    x, y = np.ones((6, 2)), np.ones((6, 1))
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[step, callback])
    return model


def test_curves_by_hand():
    evolution = kb.callbacks.WeightEvolution(WRONG)
    fit(evolution, epochs=2)
    curves = evolution.curves
    assert curves["epoch"] == [0, 1, 2]
    right, wrong = np.array([1, 2, 4, 5]), np.array([0, 3])
    for steps in range(3):
        for i, members in enumerate((right, wrong)):
            weights = 1 + members * steps
            assert curves["mean"][steps][i] == weights.mean()
            low, high = np.percentile(weights, [2.5, 97.5])
            np.testing.assert_allclose(curves["low"][steps][i], low)
            np.testing.assert_allclose(curves["high"][steps][i], high)


def test_memory_is_three_floats_a_group_and_recording():
    evolution = kb.callbacks.WeightEvolution(np.array([3, 0, 3, 7, 0, 7]))
    fit(evolution, epochs=4)
    for key in ("mean", "low", "high"):
        assert np.shape(evolution.curves[key]) == (5, 3)


def test_further_fits_extend_the_curves():
    evolution = kb.callbacks.WeightEvolution()
    model = fit(evolution, epochs=2)
    fit(evolution, epochs=1, model=model)
    assert evolution.curves["epoch"] == [0, 1, 2, 3]
    np.testing.assert_allclose(
        np.ravel(evolution.curves["mean"]), 1 + 2.5 * np.arange(4)
    )


def test_every_and_the_last_epoch():
    evolution = kb.callbacks.WeightEvolution(every=2)
    fit(evolution, epochs=5)
    assert evolution.curves["epoch"] == [0, 2, 4, 5]


@pytest.mark.parametrize("groups", [None, WRONG])
def test_figure(groups):
    evolution = kb.callbacks.WeightEvolution(groups)
    fit(evolution, epochs=2)
    axes = evolution.plot()
    labels = ["all examples"] if groups is None else ["False", "True"]
    assert [line.get_label() for line in axes.lines] == labels
    assert len(axes.collections) == len(labels)
    names = ["right", "wrong"][: len(labels)]
    figure = evolution.plot(names).figure
    assert [line.get_label() for line in figure.axes[0].lines] == names
    png = io.BytesIO()
    figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`names`.*Received"):
        evolution.plot(["a", "b", "c"])


def test_deep_copy_before_use():
    evolution = kb.callbacks.WeightEvolution(WRONG)
    copied = copy.deepcopy(evolution)
    fit(copied, epochs=1)
    assert copied.curves["epoch"] == [0, 1]
    assert evolution.curves["epoch"] == []
    again = copy.deepcopy(copied)
    assert again.model is None
    fit(again, epochs=1)
    assert again.curves["epoch"] == [0, 1, 2]
    assert copied.curves["epoch"] == [0, 1]


def test_error_without_example_weights():
    x, y = np.ones((6, 2)), np.ones((6, 1))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    evolution = kb.callbacks.WeightEvolution()
    with pytest.raises(ValueError, match="example_weights.*Received"):
        model.fit(x, y, verbose=0, callbacks=[evolution])


def test_error_of_another_length():
    with pytest.raises(ValueError, match="`groups`.*6 examples.*Received: 2"):
        fit(kb.callbacks.WeightEvolution([True, False]), epochs=1)


def test_invalid_arguments():
    with pytest.raises(ValueError, match="`every`.*Received: every=0"):
        kb.callbacks.WeightEvolution(every=0)
    for groups in ([[True]], [0.5], ["a"]):
        with pytest.raises(ValueError, match="`groups`.*Received"):
            kb.callbacks.WeightEvolution(groups)
