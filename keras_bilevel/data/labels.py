"""Class labels as integers, from integers or one-hot vectors.

This is the only reader of labels without a loss. Where a loss says what they
are (`callbacks/agreement.py`), classes may lie along any axis.
"""

import keras
import numpy as np
import tensorflow as tf


def is_one_hot(labels):
    """Whether each row has a single 1 and else only zeros.

    Args:
        labels: Array of shape `(n, num_classes)`.
    """
    binary = np.all((labels == 0) | (labels == 1))
    return bool(binary and np.all(labels.sum(axis=-1) == 1))


def is_integer_classes(labels):
    """Whether labels have the shape and dtype of integer classes."""
    column = labels.ndim == 2 and labels.shape[1] == 1
    return labels.dtype.kind in "iub" and (labels.ndim == 1 or column)


def class_ids(labels):
    """The class of each example.

    Args:
        labels: Array of integer or boolean classes, of shape `(n,)` or
            `(n, 1)`, or one-hot vectors of any numeric type, of shape
            `(n, num_classes)`.

    Returns:
        Integer array of shape `(n,)`, or `None` where the labels are neither.
    """
    if is_integer_classes(labels):
        return labels.reshape(-1).astype("int64")
    vectors = labels.ndim == 2 and labels.dtype.kind in "iubf"
    if vectors and labels.shape[1] > 1 and is_one_hot(labels):
        return labels.argmax(axis=-1)
    return None


def read_class_ids(name, labels):
    """Returns the class of each example, or raises `ValueError`.

    Args:
        name: String, what the user calls the labels.
        labels: What `class_ids` takes, or what NumPy makes it of.

    Returns:
        Integer array of shape `(n,)`.
    """
    labels = np.asarray(labels)
    classes = class_ids(labels)
    if classes is None:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected integers of shape "
            "(n,) or (n, 1), or one-hot vectors of shape (n, num_classes). "
            f"Received: dtype {labels.dtype} and shape {labels.shape}. Pass "
            f"the classes of tokens or pixels as `{name}.reshape(-1)`, and "
            f"names as `np.unique({name}, return_inverse=True)[1]`."
        )
    return classes


def traced_class_ids(labels):
    """The class of each example, in a graph, where numbers are not known.

    Args:
        labels: Tensor of what `class_ids` takes. Vectors are taken for
            one-hot, whatever is in them.

    Returns:
        int64 tensor of shape `(n,)`.
    """
    if keras.tree.is_nested(labels) or labels is None:
        raise _no_classes(f"y of type {type(labels).__name__}")
    kind, shape = tf.as_dtype(labels.dtype), labels.shape
    if shape.rank == 2 and shape[1] != 1:
        return tf.argmax(labels, axis=1)
    if shape[1:].as_list() not in ([], [1]) or kind.is_floating:
        raise _no_classes(f"y of dtype {kind.name} and shape {shape}")
    return tf.cast(tf.reshape(labels, [-1]), "int64")


def check_classes(labels):
    """Raises `ValueError` for arrays that `class_ids` cannot read.

    Args:
        labels: Array or structure of arrays of shape `(n, ...)`.
    """
    if keras.tree.is_nested(labels) or labels is None:
        raise _no_classes(f"y of type {type(labels).__name__}")
    labels = np.asarray(labels)
    if class_ids(labels) is None:
        raise _no_classes(f"y of dtype {labels.dtype} and shape {labels.shape}")


def _no_classes(received):
    return ValueError(
        "Expected labels that are classes, since the rule asks for them: "
        "integers of shape `(n,)` or `(n, 1)`, or one-hot vectors. Make "
        "integers of floats that stand for classes, or take another rule. "
        f"Received: {received}"
    )
