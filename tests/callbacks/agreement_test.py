"""What `ExampleHistory` says about labels, for each kind of loss."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import losses

import keras_bilevel as kb
from keras_bilevel.callbacks import agreement
from tests.distribute import runs
from tests.models.tools import batch_of

N = 32


def observed(network, x, y, loss, output=None, sample_weight=None):
    """Returns an `ExampleHistory` of a model that does not learn."""
    model = kb.BilevelModel(
        network, kb.weighting.DeepBilevel(4), stratify_by=None
    )
    model.compile(keras.optimizers.SGD(0.0), loss)
    history = kb.callbacks.ExampleHistory(len(x), output)
    model.fit(
        x,
        y,
        batch_size=len(x),
        epochs=2,
        verbose=0,
        sample_weight=sample_weight,
        callbacks=[history],
    )
    return history


def network(units, *more, shape=(5,)):
    return keras.Sequential([keras.Input(shape), layers.Dense(units), *more])


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def check(history, expected):
    assert np.all((expected > 0) & (expected < 1))
    np.testing.assert_allclose(
        history.given_probability, expected, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(
        history.given_probability, history.example_scores
    )
    order = history.example_scores[kb.report.suspects(history)["id"]]
    assert len(order) == len(expected) and np.all(np.diff(order) >= 0)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int32", "int64", "uint32", "float32"]
)
@pytest.mark.parametrize("column", [False, True])
def test_classes_of_any_type(dtype, column):
    x, y = batch_of(N)
    net = network(3)
    labels = y.astype(dtype)
    history = observed(
        net,
        x,
        labels[:, None] if column else labels,
        losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    check(history, softmax(net.predict(x, verbose=0))[np.arange(N), y])


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        losses.sparse_categorical_crossentropy,
        losses.CategoricalGeneralizedCrossEntropy(),
    ],
)
def test_classes_and_probabilities(loss):
    x, y = batch_of(N)
    net = network(3, layers.Softmax())
    history = observed(net, x, y, loss)
    check(history, net.predict(x, verbose=0)[np.arange(N), y])


@pytest.mark.parametrize(
    "loss",
    [
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        losses.CategoricalFocalCrossentropy(from_logits=True),
    ],
)
@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_one_hot_labels(loss, dtype):
    x, y = batch_of(N)
    net = network(3)
    history = observed(net, x, np.eye(3)[y].astype(dtype), loss)
    check(history, softmax(net.predict(x, verbose=0))[np.arange(N), y])


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "int64", "float32"])
@pytest.mark.parametrize("column", [False, True])
def test_two_classes_and_one_column(from_logits, dtype, column):
    x, y = batch_of(N, classes=2)
    net = network(1, *([] if from_logits else [layers.Activation("sigmoid")]))
    labels = (y[:, None] if column else y).astype(dtype)
    loss = losses.BinaryFocalCrossentropy(from_logits=from_logits)
    history = observed(net, x, labels, loss)
    positive = net.predict(x, verbose=0)[:, 0]
    positive = sigmoid(positive) if from_logits else positive
    check(history, np.where(y, positive, 1 - positive))


def test_several_labels():
    x, _ = batch_of(N)
    y = (x > 0).astype("int32")
    net = network(5, layers.Activation("sigmoid"))
    history = observed(net, x, y, "binary_crossentropy")
    positive = net.predict(x, verbose=0)
    check(history, np.where(y, positive, 1 - positive).mean(1))


def test_predictions_that_are_no_probabilities_by_mistake():
    x, y = batch_of(N)
    history = observed(network(3), x, y, "sparse_categorical_crossentropy")
    given = history.given_probability
    assert np.all((given >= 0) & (given <= 1))


def tokens():
    """Eight steps, of which 3 to 8 belong to the sequence."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 8, 5)).astype("float32")
    y = rng.integers(0, 3, (N, 8))
    there = np.arange(8) < rng.integers(3, 9, N)[:, None]
    return x, y, there


def token_means(net, x, y, there):
    predicted = softmax(net.predict(x, verbose=0))
    given = np.take_along_axis(predicted, y[..., None], -1)[..., 0]
    return (given * there).sum(1) / there.sum(1)


@pytest.mark.parametrize("by", ["ignore_class", "sample_weight", "mask"])
def test_tokens_that_do_not_count_are_absent(by):
    x, y, there = tokens()
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1 if by == "ignore_class" else None
    )
    net, labels, weight = network(3, shape=(8, 5)), y, None
    if by == "ignore_class":
        labels = np.where(there, y, -1)
    if by == "sample_weight":
        weight = there.astype("float32")
    if by == "mask":
        x = np.where(there[..., None], x, 0.0).astype("float32")
        net = keras.Sequential(
            [keras.Input((8, 5)), layers.Masking(), layers.Dense(3)]
        )
    history = observed(net, x, labels, loss, sample_weight=weight)
    check(history, token_means(net, x, y, there))


def test_pixels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4, 4, 2)).astype("float32")
    y = rng.integers(0, 3, (N, 4, 4, 1))
    net = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 1)])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    history = observed(net, x, y, loss)
    predicted = softmax(net.predict(x, verbose=0))
    given = np.take_along_axis(predicted, y, -1)[..., 0]
    check(history, given.mean((1, 2)))


@pytest.mark.parametrize("by", ["ignore_class", "sample_weight"])
def test_examples_of_which_nothing_counts_are_not_visited(by):
    x, y = batch_of(N)
    absent = np.arange(N) % 3 == 0
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    net = network(3)
    if by == "ignore_class":
        history = observed(net, x, np.where(absent, -1, y), loss)
    else:
        weight = np.where(absent, 0.0, 2.0)
        history = observed(net, x, y, loss, sample_weight=weight)
    expected = softmax(net.predict(x, verbose=0))[np.arange(N), y]
    expected[absent] = np.nan
    np.testing.assert_allclose(
        history.given_probability, expected, rtol=1e-5, atol=1e-6
    )
    suspects = kb.report.suspects(history)["id"]
    assert set(suspects) == set(np.flatnonzero(~absent))
    counts = [bar.get_height() for bar in history.plot().patches]
    assert sum(counts) == len(suspects)


def ranked(values):
    """Share of the others with a higher loss; ties and itself half."""
    values = np.asarray(values)
    higher = (values[None] > values[:, None]).mean(1)
    return higher + (values[None] == values[:, None]).mean(1) / 2


def own_loss(y, y_pred):
    return losses.sparse_categorical_crossentropy(y, y_pred, True)


def crossentropy(y, y_pred):
    return -np.log(softmax(y_pred)[np.arange(len(y)), y])


RANKED = {
    "regression": (
        lambda x: 100 + x[:, :1],
        network,
        "mse",
        lambda y, p: ((y - p) ** 2).mean(1),
    ),
    "several targets": (
        lambda x: x[:, :3],
        lambda: network(3),
        losses.Huber(),
        lambda y, p: np.where(
            abs(y - p) < 1, (y - p) ** 2 / 2, abs(y - p) - 0.5
        ).mean(1),
    ),
    "hinge": (
        lambda x: np.sign(x[:, :1]),
        network,
        "hinge",
        lambda y, p: np.maximum(1 - y * p, 0).mean(1),
    ),
    "counts": (
        lambda x: np.floor(np.exp(x[:, :1])),
        lambda: network(1, layers.Activation("exponential")),
        "poisson",
        lambda y, p: (p - y * np.log(p + 1e-7)).mean(1),
    ),
    "own": (
        lambda x: (x[:, 0] > 0).astype("int64"),
        lambda: network(3),
        own_loss,
        crossentropy,
    ),
}


@pytest.mark.parametrize("kind", RANKED)
def test_other_losses_are_ranked(kind):
    make_y, make_network, loss, values = RANKED[kind]
    x, _ = batch_of(N)
    y = make_y(x)
    net = make_network(1) if make_network is network else make_network()
    history = observed(net, x, y, loss)
    expected = ranked(values(y, net.predict(x, verbose=0)))
    np.testing.assert_allclose(history.example_scores, expected, atol=1e-6)
    assert kb.report.suspects(history)["id"][0] == np.argmin(expected)
    with pytest.raises(ValueError, match="Expected a cross-entropy.*scores"):
        history.given_probability  # noqa: B018


def test_ranks_leave_out_what_is_absent():
    losses = np.array([3.0, np.nan, 1.0, 3.0, 2.0], "float32")
    expected = [0.25, np.nan, 0.875, 0.25, 0.625]
    np.testing.assert_allclose(agreement.ranked(losses), expected)


def test_ranks_are_those_among_all_replicas():
    x, _ = batch_of(N)
    y = 100 + x[:, :1]
    with runs.mirrored(2).scope():
        net = network(1)
        history = observed(net, x, y, "mse")
    expected = ranked(((y - net.predict(x, verbose=0)) ** 2)[:, 0])
    np.testing.assert_allclose(history.example_scores, expected, atol=1e-6)


def test_wrong_targets_of_a_regression_are_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 5)).astype("float32")
    y = x @ np.ones((5, 1), "float32")
    wrong = rng.random(256) < 0.2
    y[wrong] += 8 * np.sign(rng.normal(size=(wrong.sum(), 1)))
    model = kb.BilevelModel(
        network(1), kb.weighting.DeepBilevel(4), stratify_by=None
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    history = kb.callbacks.ExampleHistory(256)
    model.fit(x, y, batch_size=32, epochs=20, verbose=0, callbacks=[history])
    worst = kb.report.suspects(history)["id"][: wrong.sum()]
    assert wrong[worst].mean() > 0.9


def test_a_loss_of_the_whole_batch_has_no_score():
    x, _ = batch_of(N)
    model = kb.BilevelModel(
        network(1), kb.weighting.DeepBilevel(4), stratify_by=None
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        lambda y, y_pred: keras.ops.mean(keras.ops.square(y - y_pred)),
    )
    before = model.get_weights()
    history = kb.callbacks.ExampleHistory(N)
    with pytest.raises(ValueError, match="for each example"):
        model.fit(x, x[:, :1], batch_size=16, verbose=0, callbacks=[history])
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def two_outputs(kind):
    inputs = keras.Input((5,))
    a = layers.Dense(3, activation="softmax", name="a")(inputs)
    b = layers.Dense(1, name="b")(inputs)
    outputs = {"a": a, "b": b} if kind is dict else [a, b]
    return keras.Model(inputs, outputs)


LOSSES = ["sparse_categorical_crossentropy", "mse"]


@pytest.mark.parametrize("kind, output", [(dict, "a"), (list, "a"), (list, 0)])
def test_one_of_several_outputs(kind, output):
    x, y = batch_of(N)
    net = two_outputs(kind)
    labels, loss = [y, x[:, :1]], LOSSES
    if kind is dict:
        labels, loss = (dict(zip("ab", part)) for part in (labels, loss))
    history = observed(net, x, labels, loss, output)
    predicted = net.predict(x, verbose=0)[output if kind is dict else 0]
    check(history, predicted[np.arange(N), y])
    other = "b" if kind is dict else 1
    history = observed(net, x, labels, loss, other)
    error = (net.predict(x, verbose=0)[other] - x[:, :1]) ** 2
    np.testing.assert_allclose(
        history.example_scores, ranked(error[:, 0]), atol=1e-6
    )


@pytest.mark.parametrize("output", [None, "c", 2])
def test_unclear_output_is_an_error_before_training(output):
    x, y = batch_of(N)
    labels, loss = (dict(zip("ab", part)) for part in ([y, x[:, :1]], LOSSES))
    with pytest.raises(ValueError) as error:
        observed(two_outputs(dict), x, labels, loss, output)
    message = str(error.value)
    assert message.startswith("Invalid value for argument `output`")
    assert "['a', 'b']" in message and f"output={output!r}" in message


def test_the_only_output_with_a_loss_needs_no_name():
    x, y = batch_of(N)
    net = two_outputs(dict)
    net.get_layer("b").trainable = False
    loss = {"a": LOSSES[0], "b": None}
    history = observed(net, x, {"a": y, "b": x[:, :1]}, loss)
    check(history, net.predict(x, verbose=0)["a"][np.arange(N), y])


@pytest.mark.parametrize("floatx", ["float64", "bfloat16", "float16"])
def test_other_float_types(floatx):
    x, y = batch_of(N)
    keras.config.set_floatx(floatx)
    try:
        net = network(3, layers.Softmax())
        history = observed(net, x, y, "sparse_categorical_crossentropy")
        predicted = net.predict(x, verbose=0).astype("float32")
    finally:
        keras.config.set_floatx("float32")
    given = predicted[np.arange(N), y] / predicted.sum(1)
    np.testing.assert_allclose(history.given_probability, given, atol=1e-2)


def test_source_network_with_labels_of_its_own():
    x, y = batch_of(16, classes=4)
    inputs = keras.Input((5,))
    shared = layers.Dense(6, activation="tanh")(inputs)
    target = keras.Model(inputs, layers.Dense(1)(shared))
    source = keras.Model(inputs, layers.Dense(4, activation="softmax")(shared))
    model = kb.BilevelModel(
        target,
        kb.weighting.Soseleto(16),
        source_model=source,
        source_loss="sparse_categorical_crossentropy",
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = kb.callbacks.ExampleHistory(16)
    data = kb.data.source_target_batches(
        (x, y), (x, x[:, :1]), source_size=16, target_size=8
    )
    model.fit(data, epochs=1, verbose=0, callbacks=[history])
    check(history, source.predict(x, verbose=0)[np.arange(16), y])


def test_examples_that_were_dropped_are_not_visited():
    x, y = batch_of(N)
    x[3] = np.nan
    model = kb.SelectionModel(network(3), rule=kb.selection.SelfPaced())
    model.compile(
        keras.optimizers.SGD(0.1),
        losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = kb.callbacks.ExampleHistory(N)
    kept = kb.callbacks.SelectionHistory(N)
    model.fit(x, y, batch_size=N, verbose=0, callbacks=[history, kept])
    seen = np.arange(N) != 3
    np.testing.assert_array_equal(~np.isnan(history.example_scores), seen)
    np.testing.assert_array_equal(kept.kept[0] != -1, seen)


def test_selection_history_leaves_out_what_is_ignored():
    x, y = batch_of(N)
    absent = np.arange(N) % 2 == 0
    model = kb.SelectionModel(network(3), rule=kb.selection.SelfPaced())
    model.compile(
        keras.optimizers.SGD(0.1),
        losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
    )
    history = kb.callbacks.SelectionHistory(N)
    model.fit(
        x, np.where(absent, -1, y), batch_size=N, verbose=0, callbacks=[history]
    )
    np.testing.assert_array_equal(history.kept[0], np.where(absent, -1, 1))
    np.testing.assert_array_equal(np.isnan(history.example_scores), absent)
    (line,) = history.plot().lines
    np.testing.assert_array_equal(line.get_ydata(), [1.0])


def test_a_model_without_a_compiled_loss_is_refused_before_training():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x, y, y_pred, sample_weight=None):
            return keras.ops.mean(
                losses.sparse_categorical_crossentropy(y, y_pred, True)
            )

    x, y = batch_of(N)
    with pytest.raises(ValueError, match="^Expected a model with a compiled"):
        observed(Own(), x, y, None)
