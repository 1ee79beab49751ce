"""Alignments of single examples against gradients taken one by one."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from tests.models.tools import values

SOURCE, TARGET, CLASSES = 6, 4, 3


@contextlib.contextmanager
def float64():
    keras.config.set_floatx("float64")
    # Layers ask for the policy, which stays what it was when first asked for.
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def dense():
    x = keras.Input((5,))
    y = layers.Dense(CLASSES)(layers.Dense(7, activation="tanh")(x))
    return keras.Model(x, y)


def softmax():
    """Its loss goes around the activation of the last layer."""
    x = keras.Input((5,))
    h = layers.Dense(7, activation="tanh")(x)
    return keras.Model(x, layers.Dense(CLASSES, activation="softmax")(h))


def wide():
    """Its target batch is smaller than the gradients of its layers."""
    x = keras.Input((20,))
    h = layers.Dense(24, activation="tanh")(x)
    again = layers.Dense(24, activation="tanh")
    h = layers.Dense(20, use_bias=False, activation="tanh")(again(again(h)))
    return keras.Model(x, layers.Dense(CLASSES)(h))


def residual():
    x = keras.Input((8, 8, 2))
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    h = layers.Add()([h, layers.Conv2D(4, 3, padding="same")(h)])
    h = layers.DepthwiseConv2D(3, strides=2, activation="gelu")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(x, layers.Dense(CLASSES)(layers.LayerNormalization()(h)))


def recurrent(layer):
    x = keras.Input((6,), dtype="int32")
    h = layers.Embedding(9, 4, mask_zero=True)(x)
    h = layer(5)(h)
    return keras.Model(x, layers.Dense(CLASSES)(h))


def embedding():
    x = keras.Input((6,), dtype="int32")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(x))
    return keras.Model(x, layers.Dense(CLASSES, activation="tanh")(h))


def attention():
    x = keras.Input((6,), dtype="int32")
    h = layers.Embedding(9, 4)(x)
    h = h + layers.MultiHeadAttention(2, 3)(h, h)
    return keras.Model(x, layers.Dense(CLASSES)(layers.Flatten()(h)))


def two_outputs():
    x = {"a": keras.Input((5,), name="a"), "b": keras.Input((4,), name="b")}
    h = layers.Dense(6, activation="tanh")(layers.Concatenate()([*x.values()]))
    outputs = {
        "kind": layers.Dense(CLASSES, name="kind")(h),
        "size": layers.Dense(1, name="size")(h),
    }
    return keras.Model(x, outputs)


def numbers(rng, count, *shape):
    return rng.normal(size=(count, *shape)).astype("float32")


def tokens(rng, count):
    return rng.integers(1, 9, (count, 6)).astype("int32")


NETWORKS = {
    "dense": (dense, lambda rng, n: numbers(rng, n, 5)),
    "softmax": (softmax, lambda rng, n: numbers(rng, n, 5)),
    "wide": (wide, lambda rng, n: numbers(rng, n, 20)),
    "residual": (residual, lambda rng, n: numbers(rng, n, 8, 8, 2)),
    "lstm": (lambda: recurrent(layers.LSTM), tokens),
    "gru": (lambda: recurrent(layers.GRU), tokens),
    "embedding": (embedding, tokens),
    "attention": (attention, tokens),
    "two_outputs": (
        two_outputs,
        lambda rng, n: {"a": numbers(rng, n, 5), "b": numbers(rng, n, 4)},
    ),
}


def losses_of(name):
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(
        from_logits=name != "softmax"
    )
    if name != "two_outputs":
        return {"loss": cross_entropy}
    return {
        "loss": {
            "kind": cross_entropy,
            "size": keras.losses.MeanSquaredError(),
        },
        "loss_weights": {"kind": 1.0, "size": 0.3},
    }


def labels(rng, name, count):
    kinds = rng.integers(0, CLASSES, count)
    if name != "two_outputs":
        return kinds
    return {"kind": kinds, "size": numbers(rng, count, 1)}


def reference(network, name, batch):
    """The gradient of each example's loss in float64, one after the other."""
    x, y, weights = batch
    kwargs = losses_of(name)
    gradients = []
    for j in range(len(weights)):
        one = keras.tree.map_structure(lambda t, j=j: t[j : j + 1], (x, y))
        with tf.GradientTape() as tape:
            y_pred = network(one[0])
            loss = kwargs["loss"]
            if isinstance(loss, dict):
                loss = sum(
                    kwargs["loss_weights"][key] * loss[key](one[1][key], value)
                    for key, value in y_pred.items()
                )
            else:
                loss = loss(one[1], y_pred)
        slopes = tape.gradient(loss, network.trainable_variables)
        gradients.append(
            np.concatenate(
                [
                    tf.reshape(tf.convert_to_tensor(g), -1).numpy()
                    for g in slopes
                ]
            )
            * weights[j]
        )
    return np.array(gradients)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_alignment_equals_per_example_gradients(name, with_weights):
    make, inputs = NETWORKS[name]
    keras.utils.set_random_seed(1)
    network = make()
    with float64():
        exact = make()
        exact.set_weights(values(network.weights))
    rng = np.random.default_rng(0)
    parts = []
    for count in (SOURCE, TARGET):
        weights = rng.uniform(0.5, 2.0, count).astype("float32")
        if not with_weights:
            weights = np.ones(count, "float32")
        parts.append((inputs(rng, count), labels(rng, name, count), weights))
    with float64():
        each = [reference(exact, name, part) for part in parts]
    alignments = each[0] @ each[1].mean(0)

    (x, y, w), (x_t, y_t, w_t) = parts
    ids = np.arange(SOURCE)
    batch = ((x, y, ids), (x_t, y_t))
    if with_weights:
        batch = ((x, y, w, ids), (x_t, y_t, w_t))
    model = kb.BilevelModel(network, kb.weighting.Soseleto(SOURCE))
    model.compile(keras.optimizers.SGD(1.0), **losses_of(name))
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    np.testing.assert_allclose(
        model.weighting.example_scores,
        alignments,
        rtol=1e-5,
        atol=1e-5 * np.abs(alignments).max(),
    )
    step = each[0].mean(0)  # All weights are 1 at first.
    change = np.concatenate(
        [
            (b - a.numpy()).ravel()
            for a, b in zip(network.weights, exact.get_weights())
        ]
    )
    np.testing.assert_allclose(
        change, step, rtol=1e-4, atol=1e-6 * np.abs(step).max() + 1e-7
    )
