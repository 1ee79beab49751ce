"""One array, whatever it came as: dense, and of numbers or text."""

import numbers

import keras
import numpy as np
import tensorflow as tf

# The kinds of NumPy arrays that may hold text, and those that hold dates.
TEXT = "OSU"
DATES = "Mm"


def read_dense(data, where):
    """An array, a tensor, numbers in lists, or a pandas object as an array.

    Rows count by position, whatever the index of a pandas object. The columns
    of a `DataFrame` become one array, of floats unless all are integers or
    all booleans. Categories are what they stand for. NaN stays NaN, but what
    is missing where no float could be is an error, and so is all that is not
    dense.

    Args:
        data: The array.
        where: String, how messages call it, for instance "argument `x`".

    Returns:
        NumPy array; floats are of `keras.config.floatx()`.

    Raises:
        ValueError: If `data` is none of the above.
    """
    mend = _mend_of_sparse(data)
    if mend:
        kind = f"{type(data).__module__.split('.')[0]} {type(data).__name__}"
        raise wrong(where, "a dense array", f"a {kind}", mend)
    if hasattr(data, "iloc") and data.ndim == 2:
        return _read_frame(data, where)
    if hasattr(data, "isna"):
        _check_nothing_missing(data, where)
    try:
        array = np.asarray(data)
        if array.dtype.kind == "O":
            array = _from_objects(array)
    except ValueError:
        raise wrong(
            where,
            "rows of one shape",
            "rows of varied shapes",
            "Pad them, for instance by `keras.utils.pad_sequences`.",
        ) from None
    if array.dtype.kind in "O" + DATES and not is_text(array):
        odd = (v for v in array.ravel() if not isinstance(v, numbers.Number))
        raise wrong(
            where,
            "numbers",
            f"dtype {array.dtype} with values such as {next(odd)!r}",
            "Fill in what is missing, and make numbers of the rest.",
        )
    if array.dtype.name.startswith(("float", "bfloat")):
        return array.astype(keras.config.floatx(), copy=False)
    return array


def is_scalar(leaf):
    """Whether `leaf` is a number or text, as opposed to an array."""
    return isinstance(leaf, (numbers.Number, np.generic, str, bytes))


def is_text(array):
    """Whether a NumPy array holds text and nothing else."""
    if array.dtype.kind == "O":
        return all(isinstance(v, (str, bytes)) for v in array.ravel())
    return array.dtype.kind in TEXT


def wrong(where, expected, received, mend):
    """A `ValueError` in the form of those of Keras."""
    return ValueError(
        f"Invalid value for {where}. Expected {expected}. Received: "
        f"{received}. {mend}".rstrip()
    )


def _mend_of_sparse(data):
    """What makes sparse or ragged data a dense array; else `None`."""
    if isinstance(data, tf.SparseTensor):
        return "Pass `tf.sparse.to_dense(...)` of it."
    if isinstance(data, tf.RaggedTensor):
        return "Pass its `.to_tensor()`, which pads rows to one length."
    if hasattr(data, "tocsr"):
        return "Pass its `.toarray()`."
    if str(getattr(data, "dtype", "")).startswith("Sparse"):
        return "Pass its `.sparse.to_dense()`."
    return None


def _read_frame(frame, where):
    """The columns of a `pandas.DataFrame` as one array."""
    names = list(frame.columns)
    columns = [
        read_dense(frame.iloc[:, i], f"column {name!r} of {where}")
        for i, name in enumerate(names)
    ]
    text = [n for n, c in zip(names, columns) if c.dtype.kind in TEXT]
    nested = [n for n, c in zip(names, columns) if c.ndim > 1]
    if nested or len(text) not in (0, len(names)):
        raise wrong(
            where,
            "columns of numbers",
            f"columns of {'arrays' if nested else 'text'}: {nested or text}",
            "Encode them, for instance by `pandas.get_dummies`, or pass each "
            "as an input of its own.",
        )
    dtype = np.result_type(*columns)
    if dtype.kind == "f":  # As of integers beside floats.
        dtype = keras.config.floatx()
    return np.stack(columns, axis=1, dtype=dtype, casting="unsafe")


def _check_nothing_missing(series, where):
    # In what NumPy knows, NaN is a number, and what is none shows later.
    is_known = isinstance(series.dtype, np.dtype)
    missing = 0 if is_known else int(np.sum(series.isna()))
    if missing:
        raise wrong(
            where,
            "no missing values",
            f"{missing} of them, with dtype {series.dtype}",
            "Fill them by `.fillna(...)`, drop their rows, or make them NaN "
            "by `.astype('float32')`.",
        )


def _from_objects(array):
    """An array of objects as numbers, where they are numbers."""
    if is_text(array):
        return array
    # Objects may be arrays themselves, as in a column of embeddings.
    values = np.array(array.tolist())
    if all(isinstance(v, numbers.Number) for v in array.ravel()):
        return values if values.dtype.kind != "O" else array.astype("float64")
    # NumPy would make text of a number beside text.
    return array if values.dtype.kind in TEXT else values
