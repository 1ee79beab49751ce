"""Alignments need second derivatives: exact, or the network is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

import keras_bilevel as kb
from keras_bilevel.engine.tensorflow import known_layers
from tests.models.tools import batched
from tests.models.tools import values

SOURCE, TARGET, CLASSES = 8, 5, 3
WEIGHTINGS = {
    "soseleto": lambda: kb.weighting.Soseleto(SOURCE),
    "soseleto_first": lambda: kb.weighting.Soseleto(
        SOURCE, update_weights_first=True
    ),
    "reweight": lambda: kb.weighting.LearningToReweight(),
}


class Own(layers.Layer):
    """No layer that is known to keep examples apart: all is differentiated."""

    def call(self, x):
        return x + 0.3 * ops.square(x)


def images(*hidden):
    """Returns a network with layers between its variables."""
    network = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 2, padding="same", activation="tanh"),
            *hidden,
            Own(),
            layers.Conv2D(2, 2, strides=2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )
    assert not known_layers.keeps_rows_apart(network)
    return network


def data(seed=0):
    """Returns a batch of (source, target) examples for `images`."""
    rng = np.random.default_rng(seed)
    x, x_target = (
        rng.normal(size=(n, 4, 4, 2)).astype("float32")
        for n in (SOURCE, TARGET)
    )
    y, y_target = (rng.integers(0, CLASSES, n) for n in (SOURCE, TARGET))
    return (x, y, np.arange(SOURCE)), (x_target, y_target)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(network, weighting, rate=1.0, loss=None, **options):
    model = kb.BilevelModel(network, weighting)
    loss = cross_entropy() if loss is None else loss
    model.compile(keras.optimizers.SGD(rate), loss, **options)
    return model


def gradient(network, x, y):
    with tf.GradientTape() as tape:
        loss = cross_entropy()(y, network(x))
    slopes = tape.gradient(loss, network.trainable_variables)
    return np.concatenate([g.numpy().astype("float64").ravel() for g in slopes])


def check_alignments(network, **options):
    """Compares a step's alignments with first derivatives, one by one."""
    (x, y, _), target = batch = data()
    judge = gradient(network, *target)
    each = [gradient(network, *pair) for pair in zip(x[:, None], y[:, None])]
    model = compiled(network, kb.weighting.Soseleto(SOURCE), **options)
    model.fit(batched(*batch), verbose=0)
    # Inner products of float32 vectors of some 100 numbers: 1e-6 of lengths.
    length = np.linalg.norm(judge) * max(np.linalg.norm(g) for g in each)
    np.testing.assert_allclose(
        model.weighting.example_scores,
        np.array(each) @ judge,
        rtol=0,
        atol=1e-5 * length,
    )


def interpolations(layer):
    if layer == "upsampling":
        kinds = ["nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"]
        return {
            f"upsampling_{kind}": lambda kind=kind: layers.UpSampling2D(
                2, interpolation=kind
            )
            for kind in kinds
        }
    sizes = {"larger": (6, 7), "smaller": (3, 2)}
    return {
        f"resizing_{kind}_{name}": lambda kind=kind, size=size: layers.Resizing(
            *size, interpolation=kind
        )
        for kind in ("nearest", "bilinear", "bicubic")
        for name, size in sizes.items()
    }


HIDDEN = {
    **interpolations("upsampling"),
    **interpolations("resizing"),
    "pooling_tiles": lambda: layers.MaxPooling2D(2),
    "pooling_cut_tiles": lambda: keras.Sequential(
        [layers.ZeroPadding2D(2), layers.MaxPooling2D(3)]
    ),
    "pooling_wide_tiles": lambda: layers.MaxPooling2D((1, 2), padding="same"),
    "pooling_padded": lambda: layers.MaxPooling2D(3, padding="same"),
    "pooling_of_one_size": lambda: layers.MaxPooling2D(2, 1, padding="same"),
    "pooling_overlapping": lambda: layers.MaxPooling2D(3, strides=1),
    "softsign": lambda: layers.Activation("softsign"),
    "softsign_of_convolution": lambda: layers.Conv2D(
        3, 2, activation="softsign"
    ),
}


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("name", list(HIDDEN))
def test_alignments_are_exact(name, run_eagerly):
    check_alignments(images(HIDDEN[name]()), run_eagerly=run_eagerly)


@pytest.mark.parametrize(
    "strides, operation", [(2, "AvgPool"), (1, "MaxPoolGradGrad")]
)
def test_max_pooling_of_tiles_is_differentiated_fast(strides, operation):
    """Also where pixels are equal, as behind a ReLU."""
    x = tf.nn.relu(tf.random.normal((2, 6, 6, 3)))
    along = tf.random.normal(x.shape)
    size = 3 if strides == 2 else 5

    @tf.function
    def twice(x, along):
        with tf.GradientTape() as outer:
            upstream = tf.ones((2, size, size, 3))
            outer.watch(upstream)
            with tf.GradientTape() as inner:
                inner.watch(x)
                pooled = tf.nn.max_pool2d(x, 2, strides, "VALID")
            slopes = inner.gradient(pooled, x, output_gradients=upstream)
        return pooled, outer.gradient(slopes, upstream, along)

    graph = twice.get_concrete_function(x, along).graph
    assert operation in {op.type for op in graph.get_operations()}
    pooled, found = twice(x, along)
    expected = tf.raw_ops.MaxPoolGradGrad(
        orig_input=x,
        orig_output=pooled,
        grad=along,
        ksize=(1, 2, 2, 1),
        strides=(1, strides, strides, 1),
        padding="VALID",
    )
    np.testing.assert_array_equal(found, expected)


@tf.custom_gradient
def wrong(x):
    y = tf.tanh(x)
    # The derivative in `change` is lost.
    return y, lambda change: tf.stop_gradient(change * (1.0 - y**2))


@tf.custom_gradient
def half_wrong(x):
    y = tf.tanh(x)

    def backward(change):
        return 0.5 * (tf.stop_gradient(change) + change) * (1.0 - y**2)

    return y, backward


@tf.custom_gradient
def harmless(x):
    y = tf.tanh(x)
    # What does not depend on the examples' weights may be held.
    return y, lambda change: change * tf.stop_gradient(1.0 - y**2)


class Calls(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def state(model):
    """Returns the weights, and alpha and the scores where there are such."""
    memory = getattr(model.weighting, "variables", [])
    return values([*model.model.variables, *memory])


def check_refused(model, match):
    """Checks that each `fit` ends at its first step and changes nothing."""
    dataset = batched(*data(), repeat=3)
    before = state(model)
    for _ in range(2):
        seen = []
        count = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: seen.append(batch)
        )
        with pytest.raises(ValueError, match=match):
            model.fit(dataset, verbose=0, callbacks=[count])
        assert len(seen) <= 1
        for a, b in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
@pytest.mark.parametrize("function", [wrong, half_wrong])
def test_wrong_second_derivative_is_an_error(weighting, function, run_eagerly):
    network = images(Calls(function, name="culprit"))
    model = compiled(network, WEIGHTINGS[weighting](), run_eagerly=run_eagerly)
    check_refused(model, r"wrong second derivative.*`culprit` \(Calls\)")


def test_what_is_held_constant_rightly_is_no_error():
    check_alignments(images(Calls(harmless)))


def local_response(x):
    return tf.nn.local_response_normalization(x, alpha=0.5)


def dilation(x):
    return tf.nn.dilation2d(
        x, tf.ones((2, 2, 3)), (1, 1, 1, 1), "SAME", "NHWC", (1, 1, 1, 1)
    )


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
@pytest.mark.parametrize(
    "function, operation",
    [(local_response, "LRNGrad"), (dilation, "Dilation2DBackpropInput")],
)
def test_missing_second_derivative_is_an_error(
    weighting, function, operation, run_eagerly
):
    network = images(Calls(function, name="culprit"))
    model = compiled(network, WEIGHTINGS[weighting](), run_eagerly=run_eagerly)
    check_refused(model, rf"{operation}(.|\n)*`culprit` \(Calls\)")


def own_dense():
    return keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(4), Own()]
    )


def known_dense():
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Flatten(),
            layers.Dense(6, activation="tanh"),
            layers.Dense(4),
        ]
    )


def fitted(network):
    """Labels that are predicted exactly, for source and target."""
    (x, _, ids), (x_target, _) = data()
    return (x, network(x).numpy(), ids), (x_target, network(x_target).numpy())


def fitted_target(network):
    (x, _, ids), (x_target, _) = data()
    y = np.random.default_rng(1).normal(size=(SOURCE, 4)).astype("float32")
    return (x, y, ids), (x_target, network(x_target).numpy())


def opposite(network):
    """Each two source examples pull in opposite directions."""
    (x, _, ids), (x_target, _) = data()
    x[SOURCE // 2 :] = x[: SOURCE // 2]
    y = network(x).numpy()
    rng = np.random.default_rng(1)
    pull = rng.normal(size=(SOURCE // 2, 4)).astype("float32")
    y += np.concatenate([pull, -pull])
    y_target = rng.normal(size=(TARGET, 4)).astype("float32")
    return (x, y, ids), (x_target, y_target)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
@pytest.mark.parametrize("make", [fitted, fitted_target, opposite])
@pytest.mark.parametrize("build", [own_dense, known_dense])
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_what_cancels_is_no_error(weighting, build, make, scale):
    network = build()
    batch = make(network)
    model = compiled(
        network,
        WEIGHTINGS[weighting](),
        # Steps are of the order of 1 or less.
        rate=min(1.0, 1e-3 / scale),
        loss="mse",
        loss_weights=[scale],
        run_eagerly=True,
    )
    log = model.fit(batched(*batch, repeat=3), verbose=0).history
    assert log["dropped_examples"][0] == 0


@pytest.mark.parametrize("build", [own_dense, known_dense])
@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_steps_do_not_depend_on_the_scale_of_the_loss(build, scale):
    """Weights of Learning to Reweight are ratios of alignments."""
    start, batch = build(), data()
    rng = np.random.default_rng(1)
    batch = tuple(
        (part[0], rng.normal(size=(len(part[0]), 4)), *part[2:])
        for part in batch
    )
    results = []
    for factor in (1.0, scale):
        network = build()
        network.set_weights(start.get_weights())
        model = compiled(
            network,
            kb.weighting.LearningToReweight(),
            rate=0.1 / factor,
            loss="mse",
            loss_weights=[factor],
        )
        model.fit(batched(*batch), verbose=0)
        results.append(network.get_weights())
    moved = 0.0
    for old, a, b in zip(start.get_weights(), *results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        moved = max(moved, np.abs(a - old).max())
    assert moved > 1e-3
