"""Reads examples in memory as dense NumPy arrays."""

import math
import numbers

import keras
import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong

# The kinds of NumPy dtypes that may hold text, and those of dates.
TEXT = "OSU"
DATES = "Mm"


def read_dense(data, where):
    """Converts an array, a tensor, a list or a pandas object to NumPy.

    The index of a pandas object is ignored. The columns of a `DataFrame` become
    one array, of floats unless all are integers or all booleans. Categories
    become the values that they stand for. NaN stays NaN. Other missing values
    are an error, and so are sparse and ragged data.

    Args:
        data: The data, numbers or text.
        where: String, its name in error messages, for instance "argument `x`".

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


def _mend_of_sparse(data):
    """Advice on how to make sparse or ragged data dense, or `None`."""
    # By name: TensorFlow may be missing.
    if type(data).__name__ == "SparseTensor":
        return "Pass `tf.sparse.to_dense(...)` of it."
    if type(data).__name__ == "RaggedTensor":
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
    # Only for pandas' own dtypes. With NumPy's, a missing value is NaN or an
    # object, which is checked later.
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
    """Converts an array of objects to numbers, if they are numbers."""
    if is_text(array):
        return array
    # Objects may be arrays themselves, as in a column of embeddings.
    values = np.array(array.tolist())
    if all(isinstance(v, numbers.Number) for v in array.ravel()):
        return values if values.dtype.kind != "O" else array.astype("float64")
    # NumPy would turn a number beside text into text.
    return array if values.dtype.kind in TEXT else values


def are_arrays(data):
    """Whether data are arrays, numbers in lists, or a structure of these."""
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(
        hasattr(leaf, "shape") or is_scalar(leaf) for leaf in leaves
    )


def unpack_arrays(name, data):
    """Reads the parts of `(x, y)` or `(x, y, sample_weight)`.

    Args:
        name: String, the name of the argument.
        data: Tuple of the arguments of `read_examples`.

    Returns:
        A tuple of `(x, y, sample_weight)` and the number of examples. Sample
        weights may be `None`.

    Raises:
        ValueError: If `data` is not such a tuple.
    """
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a tuple `(x, y)` "
            "or `(x, y, sample_weight)` of arrays, or a `tf.data.Dataset` of "
            f"single examples. Received: {name} of type {type(data).__name__}"
            + (f" and length {len(data)}" if isinstance(data, tuple) else "")
        )
    parts = read_examples(*data, name=name)
    return parts, len(_arrays(parts)[0])


def read_examples(x, y, sample_weight=None, name=None):
    """Converts inputs, labels and weights to NumPy, see `read_dense`.

    Args:
        x: Inputs: an array or a structure of arrays. A `pandas.Series`
            becomes a column, as in Keras.
        y: Labels: an array or a structure of arrays.
        sample_weight: `None`, an array, or a structure of arrays like `y`, in
            which `None` stands for ones.
        name: String, the argument that holds all of them. Defaults to `None`:
            each is an argument of its own.

    Returns:
        A tuple `(x, y, sample_weight)` of structures of arrays of shape
        `(n, ...)`. Sample weights may be `None`.

    Raises:
        ValueError: If a part is not a dense array of numbers (inputs may be
            text), if labels or weights are missing, or if lengths differ.
    """
    where = {
        part: f"`{part}` of argument `{name}`" if name else f"argument `{part}`"
        for part in ("x", "y", "sample_weight")
    }
    x = _read(x, where["x"], series_are_columns=True)
    y = _read(y, where["y"])
    sample_weight = _read(sample_weight, where["sample_weight"])
    if any(label is None for label in keras.tree.flatten(y)):
        raise wrong(where["y"], "labels", "None", "Pass one for each example.")
    _check_lengths({"x": x, "y": y, "sample_weight": sample_weight}, name)
    if sample_weight is not None:
        check_outputs(y, sample_weight, where["sample_weight"])
        ones = np.ones(len(_arrays(y)[0]))
        sample_weight = keras.tree.map_structure(
            lambda weight: (ones if weight is None else weight).astype(
                keras.config.floatx()
            ),
            sample_weight,
        )
    return x, y, sample_weight


def _read(data, where, series_are_columns=False):
    def read(part):
        # `traverse` visits the members of a structure if this returns `None`.
        if part is None or keras.tree.is_nested(part) and not _is_list(part):
            return None
        array = read_dense(part, where)
        is_series = hasattr(part, "iloc") and array.ndim == 1
        return array[:, None] if series_are_columns and is_series else array

    # tf.data would stack the members of a list into one tensor.
    return keras.tree.lists_to_tuples(keras.tree.traverse(read, data))


def _is_list(part):
    """Whether this is a list of numbers; one of arrays has several inputs."""
    leaves = _arrays(part)
    is_list = isinstance(part, (list, tuple)) and bool(leaves)
    return is_list and all(map(is_scalar, leaves))


def _arrays(structure):
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def _check_lengths(parts, name):
    shapes = {
        part: [leaf.shape for leaf in _arrays(data)]
        for part, data in parts.items()
    }
    lengths = {shape[:1] for part in shapes.values() for shape in part}
    if len(lengths) != 1 or () in lengths:
        received = [
            f"{part} of shape {', '.join(map(str, of_part))}"
            for part, of_part in shapes.items()
            if of_part
        ]
        raise wrong(
            f"argument `{name or 'y'}`",
            "arrays of the same length",
            "; ".join(received),
        )


def check_outputs(y, sample_weight, where):
    """Raises a `ValueError` unless weights are one array, or one per output.

    Args:
        y: Structure of labels.
        sample_weight: Structure of weights.
        where: String, the name of the weights in error messages.
    """
    outputs, weights = _names(y), _names(sample_weight)
    if weights is None or weights == outputs:
        return
    missing = [name for name in outputs or [] if name not in weights]
    raise wrong(
        where,
        f"one array for each of the outputs {outputs} of `y`, or a single one"
        if outputs
        else "an array",
        f"a {type(sample_weight).__name__} of {weights}"
        + (f", without {missing}" if missing else ""),
        "Pass `None` for an output whose examples all count the same."
        if outputs
        else "",
    )


def _names(structure):
    """The keys or positions of a structure's members; `None` for an array."""
    if not keras.tree.is_nested(structure):
        return None
    is_dict = isinstance(structure, dict)
    return sorted(structure) if is_dict else list(range(len(structure)))


def check_steps(steps):
    """Raises a `ValueError` unless `steps_per_epoch` is valid or `None`."""
    if steps is not None:
        check_integer("steps_per_epoch", steps, 1)


def check_no_steps(steps):
    """Raises a `ValueError` if `steps_per_epoch` is given with a dataset."""
    if steps is not None:
        raise ValueError(
            "Invalid value for argument `steps_per_epoch`. Expected None with "
            "a `tf.data.Dataset`, since it is for arrays. Received: "
            f"steps_per_epoch={steps}. Pass it to `fit()` instead, with a "
            "repeated dataset."
        )


def split_off_tail(arrays, validation_split):
    """Splits `(x, y, sample_weight)` as Keras' `validation_split` does.

    Returns:
        Tuple of the training part and the validation part: the last
        `validation_split` of the examples, before any shuffling.
    """
    size = len(keras.tree.flatten(arrays[0])[0])
    cut = int(math.floor(size * (1.0 - validation_split)))
    if not 0 < cut < size:
        raise wrong(
            "argument `validation_split`",
            "a fraction that leaves examples on both sides",
            f"validation_split={validation_split} for {size} examples",
        )

    def take(part):
        return keras.tree.map_structure(
            lambda array: None if array is None else array[part], arrays
        )

    return take(slice(cut)), take(slice(cut, None))


def read_validation(validation_data):
    """Reads arrays in `validation_data` in the same way as training data."""
    is_tuple = isinstance(validation_data, (list, tuple))
    if not is_tuple or len(validation_data) not in (2, 3):
        return validation_data
    if not are_arrays(validation_data[0]):
        return validation_data
    return read_examples(*validation_data, name="validation_data")


def array_columns(x, y, sample_weight, num_examples, ids):
    """The structure of columns from which batches are gathered.

    Args:
        x: Inputs, a structure of arrays of shape `(n, ...)`.
        y: Labels, a structure of arrays of shape `(n, ...)`.
        sample_weight: Structure of arrays of shape `(n,)`, or `None`.
        num_examples: Integer, `n`.
        ids: Boolean, whether to add sample weights and row numbers.

    Returns:
        `(x, y)`, `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`, of
        tensors, or of arrays where TensorFlow is missing.
    """
    columns = [x, y]
    if sample_weight is not None:
        columns.append(sample_weight)
    elif ids:
        columns.append(np.ones(num_examples, keras.config.floatx()))
    if ids:
        columns.append(np.arange(num_examples))
    if tf is None:
        return tuple(columns)
    # tf.data runs on the CPU: arrays on a GPU would be copied each step.
    with tf.device("CPU:0"):
        return keras.tree.map_structure(tf.convert_to_tensor, tuple(columns))
