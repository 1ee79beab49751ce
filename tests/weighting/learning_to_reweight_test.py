"""Learning to Reweight in float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.models import reference
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values


def test_step_equals_the_papers():
    network = tanh_network()
    exact = [w.astype("float64") for w in values(network.weights)]
    (x, y), target = batch_of(12), batch_of(6, seed=1)
    pairs = zip(x[:, None], y[:, None])
    each = [reference.loss_and_gradient(exact, *p)[1] for p in pairs]
    _, judge = reference.loss_and_gradient(exact, *target)
    inner = [sum(np.sum(a * b) for a, b in zip(g, judge)) for g in each]
    weights = np.maximum(inner, 0.0)
    weights /= weights.sum()
    model = compiled(network, kb.weighting.LearningToReweight())
    step = train_step(model, (x, y, np.arange(12)), target)
    np.testing.assert_allclose(step.weights[0], weights, atol=1e-5)
    for i, variable in enumerate(network.weights):
        total = sum(w * g[i] for w, g in zip(weights, each))
        np.testing.assert_allclose(
            variable, exact[i] - 0.1 * total, rtol=1e-5, atol=1e-6
        )


def test_no_aligned_example_changes_nothing():
    """One source example, whose gradient opposes the target's."""
    network = tanh_network()
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    x = np.ones((1, 5), "float32")
    source = (x, np.array([0]), np.array([0]))
    target = (x, np.array([1]))
    model = compiled(network, kb.weighting.LearningToReweight())
    dataset = tf.data.Dataset.from_tensors((source, target))
    log = model.fit(dataset, verbose=0).history
    assert not any(np.any(w) for w in network.get_weights())
    assert log["effective_examples"] == [0.0]


class Pulled(keras.layers.Layer):
    """Has a weight that its own loss alone reaches."""

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(), initializer="ones", name="shift")

    def call(self, x):
        self.add_loss(keras.ops.square(self.shift))
        return x


def test_a_variable_that_no_example_moves_follows_its_own_loss():
    network = tanh_network()
    network.add(Pulled())
    model = compiled(network, kb.weighting.LearningToReweight())
    x, y = batch_of(12)
    train_step(model, (x, y, np.arange(12)), batch_of(6, seed=1))
    shift = float(network.layers[-1].shift)
    # SGD at a rate of 0.1, from 1: the slope of its square is 2.
    assert shift == pytest.approx(0.8)
