"""Reads and writes some rows of a variable, whose cost is that of the rows.

`keras.ops` would read, or write, all of it.
"""

import tensorflow as tf


def read_rows(variable, rows):
    """Returns some rows of a variable.

    Args:
        variable: `keras.Variable` of shape `(n, ...)`.
        rows: Integer tensor of shape `(count,)`.

    Returns:
        Tensor of shape `(count, ...)`.
    """
    return tf.gather(variable.value, rows)


def write_rows(variable, rows, values):
    """Writes some rows of a variable, in place.

    Args:
        variable: `keras.Variable` of shape `(n, ...)`.
        rows: Integer tensor of shape `(count,)`. Of a row that is there twice
            the values have to be the same.
        values: Tensor of shape `(count, ...)`.
    """
    variable.value.scatter_update(tf.IndexedSlices(values, rows))


def add_rows(variable, rows, values):
    """Adds to some rows of a variable, to a row as often as it is there."""
    variable.value.scatter_add(tf.IndexedSlices(values, rows))


def raise_rows(variable, rows, values):
    """Makes some rows of a variable at least as high as values."""
    variable.value.scatter_max(tf.IndexedSlices(values, rows))
