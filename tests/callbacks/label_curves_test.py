"""Accuracies of `LabelCurves`, for each kind of label."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import losses

import keras_bilevel as kb
from keras_bilevel import keras_private
from keras_bilevel.callbacks import agreement
from keras_bilevel.engine.compiled_losses import OutputLoss
from tests.distribute import runs
from tests.models.tools import batch_of

N = 32


def network(units, *more, shape=(5,)):
    return keras.Sequential([keras.Input(shape), layers.Dense(units), *more])


def recorded(net, x, y, loss, wrap=False, **options):
    """Returns `LabelCurves` of a model that does not learn."""
    model = net
    if wrap:
        model = kb.BilevelModel(
            net, kb.weighting.DeepBilevel(4), stratify_by=None
        )
    model.compile(keras.optimizers.SGD(0.0), loss)
    curves = kb.callbacks.LabelCurves(x, options.pop("y_given", y), **options)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[curves])
    return curves


def check(curves, accuracy, given=None, name="train_given"):
    assert 0 < accuracy < 1
    np.testing.assert_allclose(curves.curves[name], [accuracy] * 2, rtol=1e-6)
    if given is not None:
        np.testing.assert_allclose(
            curves.given_probability, given, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(
            curves.example_scores, curves.given_probability
        )


@pytest.mark.parametrize("wrap", [False, True])
def test_several_labels(wrap):
    x, _ = batch_of(N)
    y = (x > 0).astype("float32")
    net = network(5)
    loss = losses.BinaryCrossentropy(from_logits=True)
    curves = recorded(net, x, y, loss, wrap)
    logits = net.predict(x, verbose=0)
    positive = 1 / (1 + np.exp(-logits))
    given = np.where(y, positive, 1 - positive).mean(1)
    check(curves, np.mean((logits > 0) == y), given)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
def test_one_column(dtype):
    x, y = batch_of(N, classes=2)
    net = network(1, layers.Activation("sigmoid"))
    curves = recorded(net, x, y.astype(dtype), "binary_crossentropy")
    positive = net.predict(x, verbose=0)[:, 0]
    given = np.where(y, positive, 1 - positive)
    check(curves, np.mean((positive > 0.5) == y), given)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("by", ["ignore_class", "mask"])
def test_tokens_that_do_not_count_are_absent(by, wrap):
    rng = np.random.default_rng(0)
    there = np.arange(8) < rng.integers(3, 9, N)[:, None]
    x = rng.normal(size=(N, 8, 5)) * there[..., None]
    y = rng.integers(0, 3, (N, 8))
    net = keras.Sequential(
        [
            keras.Input((8, 5)),
            *([layers.Masking()] if by == "mask" else []),
            layers.Dense(3, activation="softmax"),
        ]
    )
    labels = np.where(there, y, -1) if by == "ignore_class" else y
    loss = losses.SparseCategoricalCrossentropy(
        ignore_class=-1 if by == "ignore_class" else None
    )
    curves = recorded(net, x.astype("float32"), labels, loss, wrap)
    predicted = net.predict(x, verbose=0)
    right = predicted.argmax(-1) == y
    given = np.take_along_axis(predicted, y[..., None], -1)[..., 0]
    given = (given * there).sum(1) / there.sum(1)
    check(curves, (right * there).sum() / there.sum(), given)


def own_loss(y, y_pred):
    return losses.sparse_categorical_crossentropy(y, y_pred, True)


def test_own_loss_has_accuracy_and_ranks_but_no_probability():
    x, y = batch_of(N)
    net = network(3)
    curves = recorded(net, x, y, own_loss)
    logits = net.predict(x, verbose=0)
    check(curves, np.mean(logits.argmax(1) == y))
    values = np.log(np.exp(logits).sum(1)) - logits[np.arange(N), y]
    expected = 1 - (values.argsort().argsort() + 0.5) / N
    np.testing.assert_allclose(curves.example_scores, expected, atol=1e-6)
    with pytest.raises(ValueError, match="example_scores"):
        curves.given_probability  # noqa: B018


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", [dict, list])
def test_one_of_several_outputs(kind, whole):
    x, y = batch_of(N)
    clean = (y + 1) % 3
    inputs = keras.Input((5,))
    a = layers.Dense(3, activation="softmax", name="a")(inputs)
    b = layers.Dense(1, name="b")(inputs)
    net = keras.Model(inputs, {"a": a, "b": b} if kind is dict else [a, b])
    loss = ["sparse_categorical_crossentropy", "mse"]
    both = [y, x[:, :1]]
    if kind is dict:
        both, loss = (dict(zip("ab", part)) for part in (both, loss))
    curves = recorded(
        net,
        x,
        both,
        loss,
        y_given=both if whole else y,
        y_clean=clean,
        output="a",
    )
    predicted = net.predict(x, verbose=0)["a" if kind is dict else 0]
    right = predicted.argmax(1)
    check(curves, np.mean(right == y), predicted[np.arange(N), y])
    check(curves, np.mean(right == clean), name="train_clean")


def test_unclear_output_is_an_error_before_training():
    x, y = batch_of(N)
    inputs = keras.Input((5,))
    net = keras.Model(
        inputs,
        {"a": layers.Dense(1)(inputs), "b": layers.Dense(1)(inputs)},
    )
    before = net.get_weights()
    labels = {"a": x[:, :1], "b": x[:, 1:2]}
    with pytest.raises(ValueError, match=r"`output`.*\['a', 'b'\].*None"):
        recorded(net, x, labels, "mse")
    for a, b in zip(before, net.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_regression_is_refused_before_training(columns, wrap):
    x, _ = batch_of(N)
    with pytest.raises(ValueError, match="classes.*Received.*ExampleHistory"):
        recorded(network(columns), x, x[:, :columns], "mse", wrap)


def test_further_fits_go_on_counting():
    x, y = batch_of(N)
    net = network(3, layers.Softmax())
    curves = recorded(net, x, y, "sparse_categorical_crossentropy", every=2)
    net.fit(x, y, epochs=3, verbose=0, callbacks=[curves])
    assert curves.curves["epoch"] == [2, 4, 5]


def test_invalid_every():
    x, y = batch_of(N)
    with pytest.raises(ValueError, match="`every`.*Received: every=0"):
        kb.callbacks.LabelCurves(x, y, every=0)


def test_replicas_equal_one_device():
    x, y = batch_of(N)
    with runs.mirrored(2).scope():
        net = network(3, layers.Softmax())
        curves = recorded(net, x, y, "sparse_categorical_crossentropy", True)
    predicted = net.predict(x, verbose=0)
    right = predicted.argmax(1) == y
    check(curves, np.mean(right), predicted[np.arange(N), y])


def test_a_fit_that_counts_all_epochs_after_one_that_does_not():
    x, y = batch_of(N)
    net = network(3)
    net.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    curves = kb.callbacks.LabelCurves(x, y)
    for first, last in ((0, 2), (0, 2), (4, 6)):
        net.fit(
            x,
            y,
            initial_epoch=first,
            epochs=last,
            verbose=0,
            callbacks=[curves],
        )
    assert curves.curves["epoch"] == [1, 2, 3, 4, 5, 6]


def test_recordings_that_are_not_finite_do_not_count():
    x, y = batch_of(N)
    net = network(3)
    net.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    curves = kb.callbacks.LabelCurves(x, y)
    net.fit(x, y, verbose=0, callbacks=[curves])
    one = curves.example_scores
    finite, x[3] = x[3].copy(), np.nan
    curves.on_epoch_end(1)
    x[3] = finite
    curves.on_epoch_end(2)
    np.testing.assert_allclose(curves.example_scores, one, rtol=1e-5)
    visits = curves.label_scores()["visits"]
    assert visits[3] == 2 and set(visits.drop(3)) == {3}


X, Y = batch_of(N)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"y_given": Y[:-1]}, "argument `y_given`.*same length"),
        ({"y_clean": Y[:-1]}, "argument `y_clean`.*same length"),
        ({"test_data": (X, Y[:-1])}, "argument `test_data`.*same length"),
        ({"test_data": X}, "argument `test_data`.*tuple"),
        ({"y_given": Y.astype(str)}, "labels that are numbers"),
        ({"x": X[:0], "y_given": Y[:0]}, "Expected examples"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.callbacks.LabelCurves(**{"x": X, "y_given": Y, **arguments})


@pytest.mark.parametrize("name", ["y_given", "y_clean"])
def test_labels_out_of_range_are_refused_before_training(name):
    wrong = np.where(np.arange(N) == N - 1, 3, Y)
    net = network(3)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"classes in \[0, 3\).*Received: 3"):
        recorded(net, X, Y, loss, **{name: wrong})


def test_ignored_labels_are_in_range():
    ignored = np.where(np.arange(N) == 0, -1, Y)
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    curves = recorded(network(3), X, ignored, loss)
    assert np.isnan(curves.example_scores[0])
    assert not np.isnan(curves.example_scores[1:]).any()


def test_lists_are_labels():
    curves = recorded(
        network(3), X, Y, "sparse_categorical_crossentropy", y_given=Y.tolist()
    )
    assert curves.curves["epoch"] == [1, 2]


@pytest.mark.parametrize("is_masked", [False, True])
def test_what_a_mask_leaves_out_may_be_out_of_range(is_masked):
    y_pred = keras.ops.zeros((2, 4, 3))
    if is_masked:
        keras_private.set_mask(y_pred, keras.ops.ones((2, 4), "bool"))
    loss = losses.SparseCategoricalCrossentropy()
    parts = loss, 1.0, np.full((2, 4), -1), y_pred, None
    output = OutputLoss("tokens", (), *parts)
    if is_masked:
        agreement.check_range(output)
        return
    with pytest.raises(ValueError, match=r"classes in \[0, 3\)"):
        agreement.check_range(output)
