"""A new weighting is one small class: here, weights for single examples."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from tests.models import reference
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values


class PositiveAlignment(kb.weighting.ExampleWeighting):
    """Rectified and normalised, as in Ren et al. (2018)."""

    statistics = ("alignment",)
    l1_normalize = True

    def call(self, alignment):
        return keras.ops.relu(alignment)


class Remembered(kb.weighting.ExampleWeighting):
    """Follows remembered weights and moves them along the alignment."""

    def __init__(self, num_examples):
        self.memory = keras.Variable(
            np.ones(num_examples), trainable=False, dtype="float32"
        )

    def recall(self, ids):
        return keras.ops.take(self.memory, ids)[None]

    def call(self, alignment):
        raise AssertionError("Its weights are known before the gradient.")

    def update(self, ids, statistics, learning_rate):
        move = learning_rate * statistics["alignment"][0]
        self.memory.assign(
            keras.ops.scatter_update(
                self.memory,
                ids[:, None],
                keras.ops.take(self.memory, ids) + move,
            )
        )


def data():
    x, y = batch_of(12)
    x_target, y_target = batch_of(6, seed=1)
    ids = np.arange(12)[::-1].copy()
    return ((x, y, ids), (x_target, y_target))


def example_gradients(weights, x, y):
    pairs = zip(x[:, None], y[:, None])
    return [reference.loss_and_gradient(weights, *p)[1] for p in pairs]


def alignments(weights, data):
    (x, y, _), target = data
    _, judge = reference.loss_and_gradient(weights, *target)
    gradients = example_gradients(weights, x, y)
    inner = [sum(np.sum(a * b) for a, b in zip(g, judge)) for g in gradients]
    return np.array(inner), gradients


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}])
def test_example_weights_equal_per_example_gradients(options):
    network = tanh_network()
    exact = [w.astype("float64") for w in values(network.weights)]
    model = compiled(network, PositiveAlignment(), **options)
    inner, gradients = alignments(exact, data())
    weights = np.maximum(inner, 0.0)
    weights /= weights.sum()
    history = kb.callbacks.WeightHistory()
    dataset = tf.data.Dataset.from_tensors(data())
    model.fit(dataset, verbose=0, callbacks=[history])
    np.testing.assert_allclose(history.weights[0], weights, atol=1e-5)
    for i, variable in enumerate(network.weights):
        step = sum(w * g[i] for w, g in zip(weights, gradients))
        np.testing.assert_allclose(
            variable.numpy(), exact[i] - 0.1 * step, rtol=1e-5, atol=1e-6
        )


def test_memory_is_updated_after_the_step():
    network = tanh_network()
    exact = [w.astype("float64") for w in values(network.weights)]
    weighting = Remembered(12)
    step = train_step(compiled(network, weighting), *data())
    inner, gradients = alignments(exact, data())
    np.testing.assert_array_equal(step.weights, np.ones((1, 12)))
    np.testing.assert_allclose(
        weighting.memory.numpy()[::-1], 1.0 + 0.1 * inner, rtol=1e-5
    )
    for i, gradient in enumerate(step.gradients):
        mean = sum(g[i] for g in gradients) / 12
        np.testing.assert_allclose(gradient, mean, rtol=1e-4, atol=1e-6)


def test_example_weights_work_with_convolutions_and_batch_norm():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    x, y = np.random.rand(16, 8, 8, 1), np.arange(16) % 3
    dataset = tf.data.Dataset.from_tensors(((x, y, y), (x, y))).repeat(8)
    model = compiled(network, PositiveAlignment())
    loss = model.fit(dataset, epochs=2, verbose=0).history["loss"]
    assert loss[1] < loss[0]


@pytest.mark.parametrize("make", [PositiveAlignment, lambda: Remembered(12)])
def test_bad_example_leaves_variables_memory_and_logs_finite(make):
    (x, y, ids), target = data()
    x[3] = np.nan
    weighting = make()
    model = compiled(tanh_network(), weighting)
    dataset = tf.data.Dataset.from_tensors(((x, y, ids), target))
    logs = model.fit(dataset, verbose=0).history
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))
    assert np.all(np.isfinite(logs["effective_examples"]))
    if isinstance(weighting, Remembered):
        assert np.all(np.isfinite(weighting.memory.numpy()))


def test_arrays_for_a_target_driven_weighting_are_an_error():
    model = compiled(tanh_network(), PositiveAlignment())
    with pytest.raises(ValueError, match="source_target_batches"):
        model.fit(*batch_of(32), verbose=0)


class SmallLoss(kb.weighting.ShardWeighting):
    """Trusts shards of a small loss, whatever the judge says."""

    statistics = ("loss",)
    num_shards = 4

    def __init__(self, per_layer=False):
        self.per_layer = per_layer

    def call(self, loss):
        return keras.ops.exp(-loss)


def convolutions():
    rows = [layers.Reshape((5, 1)), layers.Conv1D(3, 2), layers.Flatten()]
    return keras.Sequential([keras.Input((5,)), *rows, layers.Dense(3)])


@pytest.mark.parametrize("make", [tanh_network, convolutions])
def test_weights_of_losses_are_the_same_in_every_layer(make):
    x, y = batch_of(16)
    first, second = make(), make()
    second.set_weights(first.get_weights())
    steps = [
        train_step(compiled(network, SmallLoss(per_layer)), x, y)
        for network, per_layer in ((first, False), (second, True))
    ]
    assert steps[0].weights.shape == (1, 3)
    assert steps[1].weights.shape == (2, 3)
    for row in steps[1].weights:
        np.testing.assert_allclose(row, steps[0].weights[0], rtol=1e-6)
    for a, b in zip(*map(values, (first.variables, second.variables))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["Shard", "Example"])
def test_unknown_statistics_are_refused(unit):
    base = getattr(kb.weighting, f"{unit}Weighting")
    name = {"Shard": "norms", "Example": "norm"}[unit]
    weighting = type("Mine", (base,), {"statistics": ("alignment", name)})()
    with pytest.raises(ValueError, match=f"statistics='{name}'"):
        kb.BilevelModel(tanh_network(), weighting)
