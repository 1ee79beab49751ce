"""`fit` takes the arrays that Keras takes, and some that it does not."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import values

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def bilevel(network=None, loss=LOSS):
    return compiled(network or tanh_network(), loss=loss)


def selection(network=None, loss=LOSS):
    model = kb.SelectionModel(
        network or tanh_network(),
        rule=kb.selection.SelfPaced(),
        schedule=kb.schedules.ConstantSchedule(0.3),
    )
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


both = pytest.mark.parametrize("make", [bilevel, selection])


def fitted(make, *args, **kwargs):
    keras.utils.set_random_seed(3)
    model = make()
    log = model.fit(*args, batch_size=16, epochs=2, verbose=0, **kwargs)
    return [*values(model.weights), *log.history.values()]


def columns(dtype="float64"):
    """A frame, and the array that it stands for."""
    x, y = batch_of(96)
    x[:, 1], x[:, 2], x[:, 3] = x[:, 1] > 0, np.round(x[:, 2]), y + 4
    frame = pd.DataFrame(
        {
            "float": x[:, 0].astype(dtype),
            "bool": x[:, 1] > 0,
            "int": pd.array(x[:, 2].astype(int), "Int64"),
            "category": pd.Categorical(x[:, 3].astype(int)),
            "object": x[:, 4].astype(object),
        },
        index=np.arange(96)[::-1],
    )
    return frame, x, y


@both
def test_pandas_objects_and_lists_train_as_arrays_do(make):
    frame, x, y = columns()
    weight = np.linspace(0, 2, 96, dtype="float32")
    options = {"validation_split": 0.25, "class_weight": {0: 2.0, 1: 0.5}}
    expected = fitted(make, x, y, sample_weight=weight, **options)
    series = pd.Series(y, index=frame.index)
    for given in (
        (frame, series, pd.Series(weight, index=frame.index)),
        (columns("float32")[0], series.astype("category"), weight.tolist()),
        (x.tolist(), y.tolist(), tuple(weight.tolist())),
        (x.astype(object), pd.DataFrame({"y": series}), weight),
    ):
        result = fitted(make, *given[:2], sample_weight=given[2], **options)
        for a, b in zip(expected, result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@both
def test_validation_data_are_read_as_well(make):
    frame, x, y = columns("float32")
    weight = np.linspace(0, 2, 96, dtype="float32")
    expected = fitted(make, x, y, validation_data=(x, y, weight))
    for validation in (
        (frame, y.tolist(), pd.Series(weight)),
        (x.tolist(), pd.Series(y, index=frame.index), weight.tolist()),
    ):
        result = fitted(make, x, y, validation_data=validation)
        for a, b in zip(expected, result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(16)
    result = fitted(make, x, y, validation_data=dataset)
    np.testing.assert_allclose(result[-1], expected[-1], rtol=1e-5)


@both
def test_a_series_is_a_column_of_inputs(make):
    x, y = batch_of(96)
    network = keras.Sequential([keras.layers.Dense(3)])
    make(network).fit(pd.Series(x[:, 0]), y, batch_size=16, verbose=0)
    assert network.weights[0].shape == (1, 3)


X, Y = batch_of(32)
TWO = {"a": Y, "b": Y}


@both
@pytest.mark.parametrize(
    "x, y, weight, message",
    [
        (scipy.sparse.csr_matrix(X), Y, None, "`x`.*csr_matrix.*toarray"),
        (tf.sparse.from_dense(X), Y, None, "`x`.*SparseT.*sparse.to_dense"),
        (tf.ragged.constant([[1], [2, 3]] * 16), Y, None, "`x`.*to_tensor"),
        (X, scipy.sparse.csr_matrix(X), None, "`y`.*csr_matrix.*toarray"),
        (X, np.where(Y, "cat", "dog"), None, "`y`.*text.*factorize"),
        (X, [str(label) for label in Y], None, "`y`.*text.*StringLookup"),
        (X, pd.Series(Y).map(str), None, "`y`.*text.*np.unique"),
        (X, None, None, "`y`. Expected labels. Received: None"),
        (X, Y[:-1], None, r"same length.*x of shape \(32, 5\); y of"),
        (X, Y, np.ones(31), r"same length.*sample_weight of shape \(31,\)"),
        (X, TWO, {"a": np.ones(32)}, r"`sample_weight`.*without \['b'\]"),
        (X, Y, {"a": np.ones(32)}, "`sample_weight`. Expected an array"),
    ],
)
def test_error_before_the_first_step(make, x, y, weight, message):
    with pytest.raises(ValueError, match=message):
        make().fit(x, y, sample_weight=weight, batch_size=16, verbose=0)


def test_error_for_datasets_with_text_or_without_weights_of_an_output():
    for part, message in (
        ((X, Y.astype(str)), "`y`.*text.*StringLookup"),
        ((X, TWO, {"a": np.ones(32)}), r"`sample_weight`.*without \['b'\]"),
    ):
        dataset = tf.data.Dataset.from_tensor_slices(part).batch(16)
        with pytest.raises(ValueError, match=message):
            selection().fit(dataset, verbose=0)


def test_several_inputs_are_a_list_of_arrays():
    inputs = [keras.Input((2,)), keras.Input((3,))]
    merged = keras.layers.concatenate(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3)(merged))
    parts = [X[:, :2].tolist(), pd.DataFrame(X[:, 2:])]
    log = selection(network).fit(parts, Y, batch_size=32, verbose=0)
    assert np.isfinite(log.history["loss"][0])


@both
@pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float64"])
def test_any_floatx(make, floatx):
    keras.config.set_floatx(floatx)
    try:
        model = make(tanh_network())
        model.fit(X, Y, batch_size=16, verbose=0, class_weight={0: 2.0, 1: 0.5})
        assert model.weights[0].dtype == floatx
        assert int(model.optimizer.iterations) > 0
    finally:
        keras.config.set_floatx("float32")
