"""Reads and writes rows of variables, and files."""

import os

import jax
import numpy as np


def check_ids(ids, num_examples):
    """Returns ids; raises `ValueError` if one is out of range.

    While a step is compiled nothing is known of ids. The `train_function` has
    them checked before each step.

    Args:
        ids: Integer tensor of shape `(batch_size,)`.
        num_examples: Integer, or `None` if any id is valid.
    """
    if num_examples is None or isinstance(ids, jax.core.Tracer):
        return ids
    for part in _parts_here(ids):
        if part.size and not 0 <= part.min() <= part.max() < num_examples:
            raise ValueError(
                f"Expected example ids in [0, {num_examples}), as the "
                "weighting, rule or callback was made with num_examples. "
                "Received: "
                f"ids from {part.min()} to {part.max()}."
            )
    return ids


def _parts_here(tensor):
    """Returns the parts of a tensor that this process holds, a list."""
    if not isinstance(tensor, jax.Array):
        return [np.asarray(tensor)]
    return [np.asarray(shard.data) for shard in tensor.addressable_shards]


def read_rows(variable, rows):
    """Returns some rows of a variable.

    Args:
        variable: `keras.Variable` of shape `(n, ...)`.
        rows: Integer tensor of shape `(count,)`.

    Returns:
        Tensor of shape `(count, ...)`.
    """
    return variable.value[rows]


def write_rows(variable, rows, values):
    """Writes some rows of a variable.

    Args:
        variable: `keras.Variable` of shape `(n, ...)`.
        rows: Integer tensor of shape `(count,)`. If a row occurs twice, its
            values have to be the same.
        values: Tensor of shape `(count, ...)`.
    """
    variable.assign(variable.value.at[rows].set(values))


def add_rows(variable, rows, values):
    """Adds to some rows of a variable; a row may occur several times."""
    variable.assign(variable.value.at[rows].add(values))


def raise_rows(variable, rows, values):
    """Replaces some rows of a variable by their maximum with `values`."""
    variable.assign(variable.value.at[rows].max(values))


def write_histogram(log_dir, name, values, step):
    """Writes a histogram for TensorBoard, for which TensorFlow is needed.

    Args:
        log_dir: String, the folder of the logs.
        name: String.
        values: Float array of any shape.
        step: Integer, the step at which it is shown.
    """
    from keras_bilevel.engine.tensorflow import storage

    storage.write_histogram(log_dir, name, values, step)


def replace_file(path, write):
    """Replaces a file as a whole: an interruption leaves the old one.

    Args:
        path: String.
        write: Function of a path, which writes the file there.
    """
    write(f"{path}.new")
    os.replace(f"{path}.new", path)
