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
