"""Arguments that are arrays, and those that only arrays allow."""

import keras
import numpy as np

from keras_bilevel.data.checks import check_integer


def unpack_arrays(name, data):
    """The parts of `(x, y)` or `(x, y, sample_weight)`.

    Args:
        name: String, the argument that `data` came as.
        data: Tuple of structures of arrays.

    Returns:
        A tuple `(x, y, sample_weight)`. Sample weights may be `None`.

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
    # tf.data would stack the members of a list into one tensor.
    data = keras.tree.lists_to_tuples(data)
    x, y, sample_weight = (*data, None)[:3]
    return x, y, sample_weight


def count_examples(name, columns):
    """The length that all arrays share.

    Args:
        name: String, the argument that the arrays came in.
        columns: Structure of arrays of shape `(n, ...)` and of `None`.

    Returns:
        Integer, `n`.

    Raises:
        ValueError: If the lengths differ.
    """
    leaves = [t for t in keras.tree.flatten(columns) if t is not None]
    shapes = [tuple(np.shape(leaf)) for leaf in leaves]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected arrays of the same "
            f"length. Received: arrays of shape {shapes}"
        )
    return shapes[0][0]


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
