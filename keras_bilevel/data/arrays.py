"""Examples in memory, as Keras' `fit` takes them."""

import keras
import numpy as np

from keras_bilevel.data.checks import check_integer
from keras_bilevel.data.dense import is_scalar
from keras_bilevel.data.dense import read_dense
from keras_bilevel.data.dense import wrong


def are_arrays(data):
    """Whether data are arrays, numbers in lists, or a structure of these."""
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(
        hasattr(leaf, "shape") or is_scalar(leaf) for leaf in leaves
    )


def unpack_arrays(name, data):
    """The parts of `(x, y)` or `(x, y, sample_weight)`.

    Args:
        name: String, the argument that `data` came as.
        data: Tuple of what `read_examples` reads.

    Returns:
        A tuple of `(x, y, sample_weight)`, of which sample weights may be
        `None`, and of how many examples there are.

    Raises:
        ValueError: If `data` is no such tuple.
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
    """Inputs, labels and weights as NumPy arrays, see `read_dense`.

    Args:
        x: Inputs: an array or a structure of arrays. A `pandas.Series`
            becomes a column, as in Keras.
        y: Labels: an array or a structure of arrays.
        sample_weight: `None`; an array; or a structure of arrays as `y` is,
            in which `None` stands for ones.
        name: String, the argument that all came in. Defaults to `None`: each
            is an argument of its own.

    Returns:
        A tuple `(x, y, sample_weight)` of structures of arrays of shape
        `(n, ...)`. Sample weights may be `None`.

    Raises:
        ValueError: If something is no dense array of numbers (inputs may be
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
        # `traverse` goes on to the members of that for which it gets `None`.
        if part is None or keras.tree.is_nested(part) and not _is_list(part):
            return None
        array = read_dense(part, where)
        is_series = hasattr(part, "iloc") and array.ndim == 1
        return array[:, None] if series_are_columns and is_series else array

    # tf.data would stack the members of a list into one tensor.
    return keras.tree.lists_to_tuples(keras.tree.traverse(read, data))


def _is_list(part):
    """Whether a list holds numbers; one of arrays is of several inputs."""
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
        raise ValueError(
            f"Invalid value for argument `{name or 'y'}`. Expected arrays of "
            f"the same length. Received: {'; '.join(received)}"
        )


def check_outputs(y, sample_weight, where):
    """Raises a `ValueError` unless outputs have one weight array, or each one.

    Args:
        y: Structure of labels.
        sample_weight: Structure of weights.
        where: String, how messages call the weights.
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
    """The keys or places of what is in a structure; `None` for an array."""
    if not keras.tree.is_nested(structure):
        return None
    is_dict = isinstance(structure, dict)
    return sorted(structure) if is_dict else list(range(len(structure)))


def check_steps(steps):
    """Raises a `ValueError` unless `steps_per_epoch` is one or `None`."""
    if steps is not None:
        check_integer("steps_per_epoch", steps, 1)


def check_no_steps(steps):
    """Raises a `ValueError` if a dataset came with `steps_per_epoch`."""
    if steps is not None:
        raise ValueError(
            "Invalid value for argument `steps_per_epoch`. It is for arrays; "
            "pass it to `fit()` instead, with a repeated dataset. Received: "
            f"steps_per_epoch={steps} with a `tf.data.Dataset`."
        )
