"""Losses with several numbers per example, and losses that are none."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from keras_bilevel.engine.compiled_losses import means_of
from keras_bilevel.engine.compiled_losses import of_parts
from keras_bilevel.engine.compiled_losses import outputs_of
from tests.models.tools import compiled
from tests.models.tools import train_step
from tests.models.tools import values

N, T = 8, 8  # As many tokens as examples: weights must not go along them.


def tokens(n=N, t=T, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, t, 2)).astype("float32")
    return x, rng.integers(0, 3, (n, t))


def tagger(**kwargs):
    return keras.Sequential(
        [keras.Input((None, 2), **kwargs), layers.Dense(3, "softmax")]
    )


def cross_entropy(network, x, y):
    """The loss of each token, in NumPy."""
    predicted = network.predict(x, verbose=0)
    return -np.log(np.take_along_axis(predicted, y[..., None], -1)[..., 0])


def selection(networks, share=0.5, loss="sparse_categorical_crossentropy"):
    model = kb.SelectionModel(
        networks, kb.selection.SelfPaced(), kb.schedules.ConstantSchedule(share)
    )
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.epoch = 1
    return model


@pytest.mark.parametrize("shape", [(), (4,), (4, 2)])
def test_weights_meet_losses_along_the_examples(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, *shape, 2)).astype("float32")
    y = rng.normal(size=(4, *shape, 1)).astype("float32")
    weights = np.array([0.0, 1.0, 2.0, 0.5], "float32")
    network = keras.Sequential([keras.Input((*shape, 2)), layers.Dense(1)])
    model = kb.BilevelModel(network, kb.weighting.DeepBilevel(2))
    model.compile("sgd", "mse")
    error = (network.predict(x, verbose=0) - y)[..., 0] ** 2
    by_example = error.reshape(4, -1).mean(1)
    expected = np.mean(weights * by_example)
    ones = [1] * len(shape)
    for axes in ([], ones, [*ones, 1]):
        given = weights.reshape(-1, *axes)
        loss = model.evaluate(x, y, sample_weight=given, verbose=0)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    losses, _ = means_of(outputs_of(model, y, network(x), weights))
    np.testing.assert_allclose(losses[1:], by_example[1:], rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_shards_of_tokens_train_as_with_explicit_weights(weighted):
    x, y = tokens(16)
    given = np.linspace(0.5, 2.0, 16, dtype="float32")
    results = []
    for weights in (given, np.repeat(given[:, None], T, 1)):
        keras.utils.set_random_seed(1)
        model = kb.BilevelModel(
            tagger(), kb.weighting.DeepBilevel(4), stratify_by=None
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        sample_weight = weights if weighted else None
        log = model.fit(
            x, y, batch_size=16, sample_weight=sample_weight, verbose=0
        )
        results.append([*log.history["loss"], *values(model.weights)])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_examples_are_picked_by_the_mean_over_their_tokens():
    x, y = tokens()
    network = tagger()
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    order = cross_entropy(network, x, y).mean(1).argsort()
    step = train_step(selection(network), x, y)
    kept = order[: N // 2]
    np.testing.assert_array_equal(
        np.flatnonzero(step.weights[0]), np.sort(kept)
    )
    plain.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    loss = plain.train_on_batch(x[kept], y[kept])
    np.testing.assert_allclose(step.losses[0], loss, rtol=1e-5)
    for a, b in zip(values(network.weights), values(plain.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_masked_tokens_neither_rank_nor_count():
    x, y = tokens()
    lengths = np.arange(1, N + 1)
    there = np.arange(T) < lengths[:, None]
    x[~there] = 0.0

    def make():
        inputs = keras.Input((None, 2))
        hidden = layers.Masking()(inputs)
        return keras.Model(inputs, layers.Dense(3, "softmax")(hidden))

    network, plain = make(), make()
    plain.set_weights(network.get_weights())
    loss = cross_entropy(network, x, y) * there
    order = (loss.sum(1) / lengths).argsort()
    step = train_step(selection(network), x, y)
    kept = order[: N // 2]
    np.testing.assert_array_equal(
        np.flatnonzero(step.weights[0]), np.sort(kept)
    )
    plain.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    loss = plain.train_on_batch(x[kept], y[kept])
    np.testing.assert_allclose(step.losses[0], loss, rtol=1e-5)
    for a, b in zip(values(network.weights), values(plain.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["ignore_class", "token weights", "weights"])
def test_what_the_loss_ignores_is_not_there(how):
    x, y = tokens()
    y[:4] = -1 if how == "ignore_class" else y[:4]
    weights = None
    if how == "token weights":
        weights = np.ones((N, T), "float32")
        weights[:4] = 0.0
    elif how == "weights":
        weights = (np.arange(N) >= 4).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    network = tagger()
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    batch = (x, y) if weights is None else (x, y, weights)
    step = train_step(selection(network, loss=loss), *batch)
    # Half of the four that are there.
    order = 4 + cross_entropy(network, x[4:], y[4:]).mean(1).argsort()
    plain_order = 4 + cross_entropy(plain, x[4:], y[4:]).mean(1).argsort()
    np.testing.assert_array_equal(np.sort(plain_order), np.sort(order))
    kept = plain_order[:2]
    np.testing.assert_array_equal(
        np.flatnonzero(step.weights[0]), np.sort(kept)
    )
    assert not np.any(step.dropped)
    plain.compile(keras.optimizers.SGD(0.5), loss)
    plain.train_on_batch(x[kept], y[kept])
    for a, b in zip(values(network.weights), values(plain.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_ignored_source_examples_weigh_nothing():
    x, y = tokens()
    y[:4] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model = compiled(tagger(), kb.weighting.LearningToReweight(), loss=loss)
    step = train_step(model, (x, y, np.arange(N)), tokens(seed=1))
    np.testing.assert_array_equal(step.weights[0, :4], 0.0)
    assert np.any(step.weights[0, 4:] > 0)


def test_an_output_without_a_label_makes_no_example_easy():
    inputs = keras.Input((5,))
    network = keras.Model(
        inputs,
        {name: layers.Dense(1, name=name)(inputs) for name in ("a", "b")},
    )
    network.compile("sgd", {"a": "mse", "b": "mse"}, {"a": 1.0, "b": 3.0})
    y = {"a": np.full((2, 1), 2.0), "b": np.full((2, 1), 3.0)}
    y_pred = {name: tf.zeros((2, 1)) for name in y}
    weights = {"a": np.ones(2), "b": np.array([1.0, 0.0])}
    losses, counts = means_of(outputs_of(network, y, y_pred, weights))
    # (1 * 4 + 3 * 9), and 4 for each of the four parts.
    np.testing.assert_allclose(losses, [31.0, 16.0])
    assert np.all(counts)


def keras_losses():
    names = [name for name in dir(keras.losses) if name[0].isupper()]
    return sorted(set(names) - {"Loss"})


def labels_and_predictions(name, n=16):
    """Labels, and inputs that the network maps to predictions."""
    rng = np.random.default_rng(0)
    if name == "CTC":
        return rng.integers(1, 4, (n, 2)), (5, 4)
    if name in ("SparseCategoricalCrossentropy", "Circle") or "Gener" in name:
        return rng.integers(0, 4, n), (4,)
    if name in ("Hinge", "SquaredHinge"):
        return rng.choice([-1.0, 1.0], (n, 4)), (4,)
    return np.eye(4)[rng.integers(0, 4, n)], (4,)


def network_for(name, shape):
    activation = None if name in ("CTC", "Circle") else "softmax"
    activation = "sigmoid" if name.startswith("Binary") else activation
    return keras.Sequential(
        [keras.Input((*shape[:-1], 3)), layers.Dense(4, activation)]
    )


def method(name, kind, n=16):
    y, shape = labels_and_predictions(name)
    x = np.random.default_rng(1).normal(size=(n, *shape[:-1], 3))
    x = x.astype("float32")
    if kind == "selection":
        model = kb.SelectionModel(
            network_for(name, shape), kb.selection.SelfPaced()
        )
        return model, (x, y), (x, y)
    if kind == "shards":
        weighting = kb.weighting.DeepBilevel(4)
        model = kb.BilevelModel(network_for(name, shape), weighting)
        return model, (x, y), (x, y)
    weighting = kb.weighting.Soseleto(n)
    model = kb.BilevelModel(network_for(name, shape), weighting)
    return model, ((x, y, np.arange(n)), (x, y)), (x, y)


@pytest.mark.parametrize("kind", ["shards", "examples", "selection"])
@pytest.mark.parametrize("name", keras_losses())
def test_each_loss_of_keras_is_right_or_refused(name, kind):
    model, batch, (x, y) = method(name, kind)
    loss = getattr(keras.losses, name)()
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    network = model.models[0] if kind == "selection" else model.model
    if name in ("Dice", "Tversky") and kind != "shards":
        with pytest.raises(ValueError, match="a number, or several, for each"):
            train_step(model, *batch)
        return
    step = train_step(model, *batch)
    y_pred = network(x)
    if kind == "shards":
        parts = [
            loss(y[rows], y_pred[rows.start : rows.stop])
            for rows in (slice(4 * k, 4 * k + 4) for k in range(4))
        ]
    elif name == "Circle" or kind == "selection":
        # A part of a loss that compares examples needs all of them.
        parts = np.mean(np.reshape(loss.call(y, y_pred), (16, -1)), 1)
    else:
        parts = [loss(y[i : i + 1], y_pred[i : i + 1]) for i in range(16)]
    if kind == "selection":
        parts = [np.mean(parts)]
    np.testing.assert_allclose(step.losses, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, p: tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(y, p)
        ),
        # As many numbers as there are tokens, which are as many as examples.
        lambda y, p: tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(y, p), axis=0
        ),
        keras.losses.SparseCategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["examples", "selection"])
def test_loss_of_no_example_is_an_error_before_the_first_step(loss, kind):
    x, y = tokens()
    if kind == "selection":
        model = kb.SelectionModel(tagger(), kb.selection.SelfPaced())
        data = kb.data.shuffled_batches((x, y), N)
    else:
        model = kb.BilevelModel(tagger(), kb.weighting.LearningToReweight())
        data = kb.data.source_target_batches((x, y), (x, y), N, 4)
    model.compile("adam", loss)
    before = values(model.weights)
    with pytest.raises(ValueError, match="Expected a loss"):
        model.fit(data, verbose=0)
    for a, b in zip(before, values(model.weights)):
        np.testing.assert_array_equal(a, b)


def test_dice_of_each_image_can_be_weighed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4, 4, 2)).astype("float32")
    y = rng.integers(0, 2, (N, 4, 4, 1)).astype("float32")
    network = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(1, 3, padding="same")]
    )
    network.add(layers.Activation("sigmoid"))
    loss = keras.losses.Dice(axis=(1, 2, 3))
    predicted = network.predict(x, verbose=0)
    each = [keras.losses.Dice()(y[i], predicted[i]) for i in range(N)]
    step = train_step(selection(network, loss=loss), x, y)
    np.testing.assert_array_equal(
        np.flatnonzero(step.weights[0]), np.sort(np.argsort(each)[: N // 2])
    )


@pytest.mark.parametrize("loss_weights", [None, [2.0]])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_parts_come_from_one_call(weighted, loss_weights):
    x, y = tokens(t=5)
    network = tagger()
    model = compiled(
        network,
        loss="sparse_categorical_crossentropy",
        loss_weights=loss_weights,
    )
    sample_weight = np.linspace(0, 2, N, dtype="float32") if weighted else None
    numbers = cross_entropy(network, x, y)
    if weighted:
        numbers = numbers * sample_weight[:, None]
    expected = numbers.reshape(4, -1).mean(1) * (loss_weights or [1.0])[0]
    assert of_parts(model, y, network(x), sample_weight, 4) is None
    model.compute_loss(None, y, network(x))  # Builds the losses.
    found = of_parts(model, y, network(x), sample_weight, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["shards", "selection"])
def test_weighted_metrics_of_masked_tokens(method, weighted):
    """As many tokens as examples: weights must not go along them."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (N, T)), rng.integers(0, 3, (N, T))
    network = keras.Sequential(
        [
            keras.Input((T,), dtype="int32"),
            layers.Embedding(3, 4, mask_zero=True),
            layers.Dense(3),
        ]
    )
    model = kb.SelectionModel(network, kb.selection.SelfPaced())
    if method == "shards":
        weighting = kb.weighting.DeepBilevel(2)
        model = kb.BilevelModel(network, weighting, stratify_by=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, weighted_metrics=["accuracy"])
    is_right = network.predict(x, verbose=0).argmax(-1) == y
    weights = np.arange(N, dtype="float32") if weighted else None
    counts = (x > 0) * (np.arange(N)[:, None] if weighted else 1.0)
    expected = np.sum(counts * is_right) / np.sum(counts)
    found = model.evaluate(
        x, y, sample_weight=weights, batch_size=N, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(found["accuracy"], expected, rtol=1e-5)
    log = model.fit(x, y, sample_weight=weights, batch_size=N, verbose=0)
    np.testing.assert_allclose(log.history["accuracy"], expected, rtol=1e-5)


def test_losses_of_parts_take_weights_with_an_axis_more():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 2)).astype("float32"), rng.integers(0, 3, N)
    network = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax")])
    model = compiled(network, loss="sparse_categorical_crossentropy")
    model.compute_loss(None, y, network(x))  # Builds the losses.
    weights = np.linspace(0, 2, N, dtype="float32")
    expected = of_parts(model, y, network(x), weights, 4)
    found = of_parts(model, y, network(x), weights[:, None], 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class _Mixing(keras.losses.MeanSquaredError):
    def call(self, y_true, y_pred):
        return super().call(y_true, y_pred - tf.reduce_mean(y_pred, axis=0))


def test_losses_of_parts_are_asked_for_without_a_number_for_each():
    network = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    network = keras.Sequential([*network.layers, layers.Reshape(())])
    model = compiled(network, loss="mse")
    x = np.ones((N, 2), "float32")
    y, y_pred = np.ones(N, "float32"), network(x)
    model.compute_loss(None, y, y_pred)  # Builds the losses.
    assert y_pred.shape == (N,)
    assert of_parts(model, y, y_pred, None, 4) is None


def _mean_over_all(y, y_pred):
    return tf.reduce_mean(tf.square(y - y_pred))


@pytest.mark.parametrize(
    "loss",
    [
        _mean_over_all,
        keras.losses.Circle(),
        keras.losses.MeanSquaredError(reduction="sum"),
        keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        keras.losses.CategoricalCrossentropy(axis=0),
        keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        _Mixing(),
    ],
)
def test_losses_of_parts_are_asked_for_where_examples_may_meet(loss):
    model = compiled(tagger(), loss=loss)
    x, y = tokens(t=1)
    y_pred = model(x)[:, 0]
    is_sparse = getattr(loss, "name", "").startswith(("sparse", "circle"))
    y = y[:, 0] if is_sparse else np.eye(3, dtype="float32")[y[:, 0]]
    model.compute_loss(None, y, y_pred)  # Builds the losses.
    assert of_parts(model, y, y_pred, None, 4) is None
