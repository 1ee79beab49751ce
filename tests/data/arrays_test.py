"""What comes in as arrays is read as Keras' `fit` reads it."""

import collections
import decimal

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from keras_bilevel.data import shuffled_batches
from keras_bilevel.data import source_target_batches
from keras_bilevel.data import stratified_batches
from keras_bilevel.data.arrays import are_arrays
from keras_bilevel.data.arrays import read_examples

Y = np.array([0, 1, 1, 0])
ODD_INDEX = [3, 3, "a", -1]
A = [0.5, -1.0, 2.0, np.nan]


def read_x(x):
    return read_examples(x, Y)[0]


def assert_is(array, expected, dtype):
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.asarray(expected, dtype))


@pytest.mark.parametrize(
    "columns, expected, dtype",
    [
        ([A, Y == 1, Y + 7], [A, Y, Y + 7], "float32"),
        ([np.array(A, "float16"), Y], [A, Y], "float32"),
        ([Y == 1, Y == 0], [Y == 1, Y == 0], "bool"),
        ([Y == 1, Y.astype("int8")], [Y, Y], "int8"),
        ([pd.Categorical(Y + 3), A], [Y + 3, A], "float32"),
        ([pd.array(Y, "Int64"), pd.array(Y == 1, "boolean")], [Y, Y], "int64"),
        ([pd.array(A[:3] + [0.0], "Float64")], [A[:3] + [0.0]], "float32"),
        ([np.array(A, object)], [A], "float32"),
        ([[1, 0.5, True, decimal.Decimal(2)]], [[1, 0.5, 1, 2]], "float32"),
    ],
)
def test_columns_of_a_frame_become_one_array(columns, expected, dtype):
    named = {f"c{i}": column for i, column in enumerate(columns)}
    frame = pd.DataFrame(named).set_index(pd.Index(ODD_INDEX))
    assert_is(read_x(frame), np.stack(expected, axis=1), dtype)


def test_rows_of_series_count_by_position():
    y = pd.Series(Y, index=[3, 2, 1, 0])
    x, y, weight = read_examples(pd.Series(A, index=ODD_INDEX), y, y * 2)
    assert_is(x, np.array(A)[:, None], "float32")
    assert_is(y, Y, Y.dtype)
    assert_is(weight, 2 * Y, "float32")
    x = read_x(dict(pd.DataFrame({"a": A, "b": Y})))
    assert x["a"].shape == x["b"].shape == (4, 1)
    vectors = pd.Series([np.full(3, i, "float32") for i in Y])
    assert_is(read_x(vectors), np.repeat(Y[:, None], 3, axis=1), "float32")


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_numbers_are_arrays_and_lists_of_arrays_are_inputs(kind):
    rows = kind([0.5, i] for i in Y.tolist())
    assert_is(read_x(rows), np.stack([[0.5] * 4, Y], axis=1), "float32")
    assert_is(read_examples(rows, kind(Y.tolist()))[1], Y, "int64")
    assert_is(read_examples(Y, kind(Y))[1], Y, "int64")
    both = read_x(kind([rows, np.ones((4, 1))]))
    assert isinstance(both, tuple)
    assert [array.shape for array in both] == [(4, 2), (4, 1)]
    nested = read_x({"a": rows, "b": kind([Y, {"c": Y}])})
    assert nested["a"].shape == (4, 2) and nested["b"][1]["c"].shape == (4,)
    Pair = collections.namedtuple("Pair", "left right")
    assert read_x(Pair(Y, rows)).right.shape == (4, 2)


@pytest.mark.parametrize(
    "floatx", ["float16", "bfloat16", "float32", "float64"]
)
def test_floats_have_floatx_and_other_numbers_their_type(floatx):
    keras.config.set_floatx(floatx)
    try:
        for kind in ("float16", "float32", "float64", object):
            x, y, weight = read_examples(np.array(A, kind), Y, [1, 2, 3, 4])
            assert x.dtype == weight.dtype == tf.as_dtype(floatx)
            assert y.dtype == Y.dtype
        dataset = shuffled_batches((np.array(A), Y), 2)
        assert dataset.element_spec[2].dtype == floatx
        stream = tf.data.Dataset.from_tensor_slices((Y, Y))
        dataset = stratified_batches(stream, 2, 1, ids=True)
        assert dataset.element_spec[2].dtype == floatx
        assert read_x(np.arange(4, dtype="uint8")).dtype == "uint8"
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    "x", [["a", "b", "", "c\0"], [b"a", b"b", b"", b"c\0"]]
)
def test_inputs_may_be_text(x):
    expected = tf.constant(x)
    for given in (np.array(x, object), expected):
        dataset = shuffled_batches((given, Y), 4, shuffle=False)
        np.testing.assert_array_equal(next(iter(dataset))[0], expected)
    assert read_x(pd.Series(["a", "b", "c", "d"])).tolist()[1] == ["b"]
    frame = pd.DataFrame({"a": ["a"] * 4, "b": ["b"] * 4})
    assert read_x(frame).tolist()[3] == ["a", "b"]


DENSE = np.eye(4, 3, dtype="float32")
SPARSE = {
    "csr": (scipy.sparse.csr_matrix(DENSE), r"scipy csr_matrix.*toarray"),
    "coo": (scipy.sparse.coo_array(DENSE), r"scipy coo_array.*toarray"),
    "tensor": (tf.sparse.from_dense(DENSE), r"SparseTensor.*sparse.to_dense"),
    "ragged": (
        tf.ragged.constant([[1], [1, 2], [], [3]]),
        r"RaggedTensor.*to_tensor",
    ),
    "frame": (
        pd.DataFrame({"a": A, "b": pd.arrays.SparseArray(Y)}),
        r"pandas Series.*sparse.to_dense",
    ),
    "lists": ([[1.0], [2.0, 3.0], [], [4.0]], r"rows of varied.*pad_seq"),
    "objects": (pd.Series([[1.0], [2.0, 3.0], [], [4.0]]), r"pad_seq"),
}


@pytest.mark.parametrize("name", list(SPARSE))
def test_sparse_and_ragged_data_are_refused_by_name(name):
    x, message = SPARSE[name]
    for make in (
        lambda parts: stratified_batches(parts, 2, 1),
        lambda parts: shuffled_batches(parts, 2),
        lambda parts: source_target_batches(parts, (Y, Y), 2, 2),
        lambda parts: source_target_batches((Y, Y), parts, 2, 2),
    ):
        with pytest.raises(ValueError, match=f"`x`.*{message}"):
            make((x, Y))
        with pytest.raises(ValueError, match=f"`x`.*{message}"):
            make(({"a": Y, "b": x}, Y))


@pytest.mark.parametrize(
    "x, message",
    [
        (pd.array([1, None, 2, 3], "Int64"), "missing.*1 of them.*Int64"),
        (pd.array([1.0, None, None, 3], "Float64"), "2 of them.*fillna"),
        (pd.Categorical([1, None, 2, 2]), "missing.*category"),
        (np.array([1.0, None, 2, 3]), "numbers.*such as None"),
        ([1, 2, None, 3], "numbers.*such as None"),
        (np.array([1, "a", 2, 3], object), "numbers.*such as 'a'"),
        (np.zeros(4, "datetime64[s]"), "numbers.*datetime64"),
        (np.float32(3), "same length"),
    ],
)
def test_what_is_missing_or_no_number_is_an_error(x, message):
    with pytest.raises(ValueError, match=message):
        read_x(x)


def test_columns_that_are_no_numbers_are_named():
    frame = pd.DataFrame({"a": A, "kind": list("uvuv")})
    with pytest.raises(ValueError, match=r"text: \['kind'\].*get_dummies"):
        read_x(frame)
    with pytest.raises(ValueError, match=r"text: \['kind'\]"):
        read_x(frame.astype({"kind": "category"}))
    frame = pd.DataFrame({"a": A, "v": [np.ones(2)] * 4})
    with pytest.raises(ValueError, match=r"arrays: \['v'\]"):
        read_x(frame)
    frame = pd.DataFrame({"n": pd.array([1, None, 2, 3], "Int64")})
    with pytest.raises(
        ValueError, match="column 'n' of `x` of argument `data`"
    ):
        stratified_batches((frame, Y), 2, 1)


def test_missing_labels_and_lengths_that_differ_are_errors():
    with pytest.raises(ValueError, match="`y`. Expected labels. Received: N"):
        read_examples(Y, None)
    with pytest.raises(ValueError, match="`y` of argument `data`.*labels"):
        stratified_batches((Y, None), 2, 1)
    with pytest.raises(ValueError, match=r"x of shape \(4,\); y of shape \(3,"):
        read_examples(Y, Y[:3])


def test_weights_of_outputs():
    y = {"a": Y, "b": Y}
    weight = read_examples(Y, y, {"a": [1, 2, 3, 4], "b": None})[2]
    assert_is(weight["a"], [1, 2, 3, 4], "float32")
    assert_is(weight["b"], np.ones(4), "float32")
    assert read_examples(Y, y, Y)[2].shape == (4,)
    for given in ({"a": Y}, {"a": Y, "c": Y}):
        with pytest.raises(ValueError, match=r"`sample_weight`.*without \['b'"):
            read_examples(Y, y, given)
    with pytest.raises(ValueError, match=r"\[0, 1\] of `y`.*without \[1\]"):
        read_examples(Y, [Y, Y], [Y])
    with pytest.raises(ValueError, match="Expected an array.*dict of"):
        read_examples(Y, Y, {"a": Y})


def test_are_arrays():
    dense = [DENSE, Y.tolist(), {"a": Y}, [Y, DENSE], tf.constant(Y)]
    for data in dense + [x for x, _ in SPARSE.values()]:
        assert are_arrays(data)
    stream = tf.data.Dataset.from_tensor_slices(Y)
    for data in (None, stream, (i for i in Y), [1, None], [], [stream]):
        assert not are_arrays(data)
