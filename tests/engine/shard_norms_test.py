"""Batch normalisation that keeps shards apart."""

import contextlib
import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import one_pass
from keras_bilevel.engine.tensorflow import shard_norms
from tests.distribute import runs
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import train_step
from tests.models.tools import values

SHARDS, SIZE = 4, 6


def built(shape, **options):
    layer = layers.BatchNormalization(**options)
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    for v in layer.variables:
        v.assign(rng.uniform(0.5, 2.0, v.shape))
    return layer


def one_by_one(layer, x, healthy=np.ones(SHARDS, bool), mask=None):
    """Calls a layer on one shard after the other, as Keras does."""
    outputs = []
    for i in range(SHARDS):
        before = layer.get_weights()
        rows = slice(i * SIZE, (i + 1) * SIZE)
        part = None if mask is None else mask[rows]
        outputs.append(layer(x[rows], training=True, mask=part))
        if not healthy[i]:
            layer.set_weights(before)
    return np.concatenate(outputs)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((3,), {}),
        ((4, 3), {"axis": 1, "momentum": 0.0}),
        ((2, 4, 3), {"momentum": 0.3, "epsilon": 0.1}),
        ((3, 2, 2), {"axis": 1, "scale": False}),
        ((2, 3, 2, 2), {"axis": -3, "center": False, "momentum": 1.0}),
    ],
)
@pytest.mark.parametrize("has_mask", [False, True])
def test_shards_are_normalised_as_one_after_the_other(shape, options, has_mask):
    rng = np.random.default_rng(1)
    x = rng.normal(2.0, 3.0, (SHARDS * SIZE, *shape)).astype("float32")
    mask = rng.random(x.shape[:-1]) < 0.7 if has_mask else None
    healthy = np.array([True, False, True, True])
    ours, theirs = built(shape, **options), built(shape, **options)
    norms = shard_norms.ShardNorms(SHARDS)
    call = norms.call_of(ours)
    found = call(tf.constant(x), training=True, mask=mask)
    expected = one_by_one(theirs, x, healthy, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    norms.settle(tf.constant(healthy))
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_derivatives_are_those_of_keras():
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(2.0, 3.0, (SHARDS * SIZE, 2, 3)), tf.float32)
    change = tf.constant(rng.normal(size=x.shape), tf.float32)
    layer = built((2, 3))
    norms = shard_norms.ShardNorms(SHARDS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norms.call_of(layer)(x, training=True)
    variables, copies = norms.copies_of([layer.beta, layer.gamma])
    assert variables == [layer.beta, layer.gamma]
    of_x, of_copies = tape.gradient(y, (x, copies), change)
    for i in range(SHARDS):
        rows = slice(i * SIZE, (i + 1) * SIZE)
        with tf.GradientTape() as tape:
            part = x[rows]
            tape.watch(part)
            y = layer(part, training=True)
        sources = part, [v.value for v in variables]
        expected, own = tape.gradient(y, sources, change[rows])
        np.testing.assert_allclose(of_x[rows], expected, rtol=1e-4, atol=1e-5)
        for copy, slope in zip(of_copies, own):
            np.testing.assert_allclose(copy[i], slope, rtol=1e-4, atol=1e-5)


@contextlib.contextmanager
def _as_it_is(network):
    yield


def normed():
    """A network that normalises twice by one layer, and by a frozen one."""
    x = keras.Input((5, 3))
    norm = layers.BatchNormalization(momentum=0.7)
    frozen = layers.BatchNormalization(trainable=False)
    h = layers.Dense(4, activation="softplus")(norm(x) + norm(frozen(x) ** 2))
    h = layers.BatchNormalization(scale=False, axis=1)(h)
    network = keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))
    rng = np.random.default_rng(0)
    for variable in network.variables:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    return network


def derivatives(network, around, training):
    """What alignments are made of, and variables after that.

    Not the second derivatives in variables: Keras' are wrong, as TensorFlow
    holds the mean constant in the variance.
    """
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(1.0, 2.0, (6, 5, 3)), tf.float32)
    variables = network.trainable_variables
    weights = tf.range(1.0, 7.0)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner, around(network):
            inner.watch(weights)
            y = network(x, training=training)
            loss = tf.reduce_sum(weights * tf.reduce_sum(y**2, 1))
        slopes, gradient = inner.gradient(loss, (weights, variables))
    directions = [tf.ones_like(g) for g in gradient]
    alignments = outer.gradient(gradient, weights, directions)
    change = outer.gradient(slopes, variables, tf.range(6.0))
    moved = [tf.convert_to_tensor(v) for v in network.variables]
    return [y, alignments, *gradient, *change, *moved]


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_lean_networks_are_those_of_keras(training, run_eagerly):
    found = []
    for around in (_as_it_is, shard_norms.fast_batch_norm):
        network = normed()
        step = functools.partial(derivatives, network, around, training)
        if not run_eagerly:
            step = tf.function(step, autograph=False)
        # The averages have moved before the second call.
        found.append([*values(step()), *values(step())])
        assert all("call" not in vars(layer) for layer in network.layers)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_a_shard_that_would_spoil_averages_is_known():
    layer = built((3,))
    x = np.ones((SHARDS * SIZE, 3), "float32")
    x[SIZE, 0] = 1e30  # Its variance is infinite, but outputs are finite.
    norms = shard_norms.ShardNorms(SHARDS)
    norms.call_of(layer)(tf.constant(x), training=True)
    np.testing.assert_array_equal(norms.finite(), [True, False, True, True])
    layer.moving_variance.assign([np.inf, 1.0, 1.0])
    np.testing.assert_array_equal(norms.finite(), True)


def both_modes():
    keras.utils.set_random_seed(0)
    layer = layers.BatchNormalization(momentum=0.5)
    x = keras.Input((5,))
    parts = layer(x), layer(x, training=False)
    return keras.Model(x, layers.Dense(3)(layers.Add()(parts)))


def test_averages_that_move_between_shards_take_a_pass_for_each(monkeypatch):
    # Each shard has to see what those before it have moved.
    states = []
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(one_pass, "can_share", lambda *a: False)
        model = compiled(both_modes())
        train_step(model, *batch_of(32))
        states.append(values(model.variables))
    for a, b in zip(*states):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("synchronized", [True, False])
@pytest.mark.parametrize("loops", [True, False])
def test_one_pass_on_replicas_equals_many(monkeypatch, synchronized, loops):
    def make():
        keras.utils.set_random_seed(7)
        norm = layers.BatchNormalization(
            momentum=0.5, synchronized=synchronized
        )
        return keras.Sequential(
            [
                keras.Input((runs.INPUTS,)),
                layers.Dense(7, use_bias=False),
                norm,
                layers.Activation("tanh"),
                layers.Dense(runs.CLASSES),
            ]
        )

    can_share = one_pass.can_share
    found = []
    for is_shared in (True, False):
        asked = []
        with monkeypatch.context() as context:
            context.setattr(at_once, "prefers_loops", lambda: loops)
            context.setattr(
                one_pass,
                "can_share",
                lambda *a, yes=is_shared, asked=asked: (
                    asked.append(can_share(*a)) or yes
                ),
            )
            model = runs.compiled(
                runs.mirrored(2), lambda: kb.weighting.DeepBilevel(4), make=make
            )
            model.fit(*runs.examples(264), batch_size=48, verbose=0)
        assert asked and all(asked)
        found.append([c for v in model.variables for c in runs.copies(v)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_log_names_the_layer_that_takes_a_pass_for_each(caplog):
    network = keras.Sequential(
        [
            keras.Input((5, 2)),
            layers.BatchNormalization(),
            layers.LSTM(3, name="memory_of_mine"),
            layers.Dense(3),
        ]
    )
    x = batch_of(32, inputs=10)[0].reshape(32, 5, 2)
    with caplog.at_level(logging.DEBUG, "keras_bilevel"):
        for _ in range(2):
            train_step(compiled(network), x, batch_of(32)[1])
    (record,) = caplog.records
    assert "`memory_of_mine` (LSTM)" in record.getMessage()
