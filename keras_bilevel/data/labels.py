"""Class labels as integers, from integers or one-hot vectors."""

import numpy as np


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
