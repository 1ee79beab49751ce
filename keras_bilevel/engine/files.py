"""What TensorFlow writes: summaries for TensorBoard, and files of any kind."""

import tensorflow as tf


def write_histogram(log_dir, name, values, step):
    """Writes a histogram for TensorBoard.

    Args:
        log_dir: String, the folder of the logs.
        name: String.
        values: Float array of any shape.
        step: Integer, where it is shown.
    """
    writer = tf.summary.create_file_writer(log_dir)
    with writer.as_default():
        tf.summary.histogram(name, values, step)
    writer.close()


def replace_file(path, write):
    """Writes a file so that it is there as a whole, or as it was.

    Args:
        path: String, on any file system of TensorFlow.
        write: Function of a path, which writes the file there.
    """
    write(f"{path}.new")
    tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
