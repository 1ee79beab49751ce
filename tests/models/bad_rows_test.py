"""A bad row costs that row, whatever hides it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb

N = 16
BAD = [3, 8]


def dense(activation):
    return [
        keras.Input((6,)),
        layers.Dense(5, activation),
        layers.Dense(2, "softmax"),
    ]


def pooled():
    return [
        keras.Input((6, 1)),
        layers.Conv1D(3, 2, activation="relu"),
        layers.MaxPooling1D(2),
        layers.Flatten(),
        layers.Dense(2, "softmax"),
    ]


def normalized():
    return [
        keras.Input((6,)),
        layers.Dense(5),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(2, "softmax"),
    ]


NETWORKS = {
    "tanh": lambda: dense("tanh"),
    "relu": lambda: dense("relu"),
    "sigmoid": lambda: dense("sigmoid"),
    "pooled": pooled,
    "normalized": normalized,
}


def data(shape, bad):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, *shape)).astype("float32")
    x[BAD, 2] = bad
    return x, np.arange(N) % 2


def model_of(method, network, alpha_lr=1.0, **kwargs):
    if method == "selection":
        model = kb.SelectionModel(network, kb.selection.SelfPaced())
    else:
        weighting = {
            "soseleto": lambda: kb.weighting.Soseleto(N),
            "first": lambda: kb.weighting.Soseleto(
                N, alpha_lr, update_weights_first=True
            ),
            "reweight": kb.weighting.LearningToReweight,
        }[method]()
        model = kb.BilevelModel(network, weighting)
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", **kwargs
    )
    return model


def batches(method, x, y, target, weights=None):
    ids = np.arange(len(x))
    if weights is None:
        weights = np.ones(len(x), "float32")
    source = (x, y, weights, ids)
    batch = source if method == "selection" else (source, target)
    return tf.data.Dataset.from_tensors(batch)


# What hides a NaN in a compiled graph: fused activations, and pooling.
@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {"run_eagerly": True}) for name in NETWORKS),
        *((name, {}) for name in ("relu", "pooled", "normalized")),
    ],
)
@pytest.mark.parametrize(
    "method", ["soseleto", "first", "reweight", "selection"]
)
def test_step_is_that_of_the_other_rows(method, name, options):
    network, without = (keras.Sequential(NETWORKS[name]()) for _ in range(2))
    without.set_weights(network.get_weights())
    x, y = data(network.input_shape[1:], np.nan)
    good = np.setdiff1d(np.arange(N), BAD)
    target = (x[good][:6], y[good][:6])
    log = model_of(method, network, **options).fit(
        batches(method, x, y, target), verbose=0
    )
    assert log.history["dropped_examples"] == [len(BAD)]
    if name == "normalized":
        # A bad row is replaced by the first good one: statistics know it.
        x[BAD], y[BAD] = x[good[0]], y[good[0]]
        weights = np.ones(N, "float32")
        weights[BAD] = 0.0
        rest = batches(method, x, y, target, weights)
    else:
        rest = batches(method, x[good], y[good], target)
    reference = model_of(method, without, **options)
    if method in ("soseleto", "first") and name != "normalized":
        # The step's mean is over the whole batch, alignments are not.
        alpha_lr = N / (N - len(BAD))
        reference = model_of(method, without, alpha_lr, **options)
        rest = rest.map(lambda s, t: (scaled(s), t))
    elif name != "normalized":
        loss = reference.evaluate(x[good], y[good], verbose=0)
        np.testing.assert_allclose(log.history["loss"], [loss], rtol=1e-5)
    reference.fit(rest, verbose=0)
    for a, b in zip(network.get_weights(), without.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def scaled(source):
    x, y, _, ids = source
    weights = np.full(N - len(BAD), 1.0 - len(BAD) / N, "float32")
    return x, y, weights, ids


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_any_number_that_spoils_a_gradient_is_found(bad):
    network = keras.Sequential(dense("relu"))
    x, y = data((6,), bad)
    before = network.get_weights()
    log = model_of("selection", network).fit(
        batches("selection", x, y, None), verbose=0
    )
    assert log.history["dropped_examples"] == [len(BAD)]
    assert np.isfinite(log.history["loss"][0])
    assert any(np.any(a != b) for a, b in zip(before, network.get_weights()))


@pytest.mark.parametrize("method", ["soseleto", "reweight", "selection"])
def test_loss_of_an_epoch_skips_batches_without_a_good_row(method):
    network = keras.Sequential(dense("relu"))
    x, y = data((6,), 0.0)
    whole = batches(method, x, y, (x[:6], y[:6]))
    bad = batches(method, x * np.nan, y, (x[:6], y[:6]))
    model = model_of(method, network)
    model.optimizer.learning_rate = 0.0
    alone = model.fit(whole, verbose=0).history["loss"]
    both = model.fit(whole.concatenate(bad), verbose=0).history
    np.testing.assert_allclose(both["loss"], alone, rtol=1e-6)
    assert both["dropped_examples"] == [N]
    assert np.isnan(model.fit(bad, verbose=0).history["loss"][0])


def test_loss_skips_steps_in_which_co_teaching_plus_keeps_nothing():
    networks = [keras.Sequential(dense("tanh")) for _ in range(2)]
    networks[1].set_weights(networks[0].get_weights())
    model = kb.SelectionModel(networks, kb.selection.CoTeachingPlus())
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data((6,), 0.0)
    log = model.fit(batches("selection", x, y, None), verbose=0).history
    assert log["kept"] == [0.0]
    assert np.isnan(log["loss"][0])


def test_float16_overflow_skips_the_step_of_the_exact_solver():
    keras.utils.set_random_seed(1)
    policy = keras.DTypePolicy("mixed_float16")
    network = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", dtype=policy),
            layers.Dense(2, "softmax", dtype="float32"),
        ],
    )
    network.dtype_policy = policy
    model = kb.BilevelModel(
        network, kb.weighting.DeepBilevel(4, solver="exact")
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data((6,), 0.0)
    model.train_on_batch(x, y)
    scale = float(model.optimizer.dynamic_scale)
    before = network.get_weights()
    x[9, 2] = 1e30
    model.train_on_batch(x, y)
    assert float(model.optimizer.dynamic_scale) == scale / 2
    for a, b in zip(before, network.get_weights()):
        np.testing.assert_array_equal(a, b)
