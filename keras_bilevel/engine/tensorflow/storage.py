"""Reads and writes rows of variables, and files."""

import tensorflow as tf

from keras_bilevel.data import batches


def check_ids(ids, num_examples):
    """Returns ids that raise an error in a step if one is out of range.

    Args:
        ids: Integer tensor of shape `(batch_size,)`.
        num_examples: Integer, or `None` if any id is valid.
    """
    return batches.check_ids(ids, num_examples)


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
        rows: Integer tensor of shape `(count,)`. If a row occurs twice, its
            values have to be the same.
        values: Tensor of shape `(count, ...)`.
    """
    variable.value.scatter_update(tf.IndexedSlices(values, rows))


def add_rows(variable, rows, values):
    """Adds to some rows of a variable; a row may occur several times."""
    variable.value.scatter_add(tf.IndexedSlices(values, rows))


def raise_rows(variable, rows, values):
    """Replaces some rows of a variable by their maximum with `values`."""
    variable.value.scatter_max(tf.IndexedSlices(values, rows))


def write_histogram(log_dir, name, values, step):
    """Writes a histogram for TensorBoard.

    Args:
        log_dir: String, the folder of the logs.
        name: String.
        values: Float array of any shape.
        step: Integer, the step at which it is shown.
    """
    writer = tf.summary.create_file_writer(log_dir)
    with writer.as_default():
        tf.summary.histogram(name, values, step)
    writer.close()


def replace_file(path, write):
    """Replaces a file as a whole: an interruption leaves the old one.

    Args:
        path: String, on any file system of TensorFlow.
        write: Function of a path, which writes the file there.
    """
    write(f"{path}.new")
    tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
