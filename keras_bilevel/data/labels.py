"""Class labels as integers, from integers or one-hot vectors."""

import numpy as np


def is_one_hot(labels):
    """Whether each row has a single 1 and else only zeros.

    Args:
        labels: Array of shape `(n, num_classes)`.
    """
    binary = np.all((labels == 0) | (labels == 1))
    return bool(binary and np.all(labels.sum(axis=-1) == 1))


def class_ids(labels):
    """The class of each example.

    Args:
        labels: Array of integer or boolean classes, of shape `(n,)` or
            `(n, 1)`, or one-hot vectors of any numeric type, of shape
            `(n, num_classes)`.

    Returns:
        Integer array of shape `(n,)`, or `None` where the labels are neither.
    """
    discrete = labels.dtype.kind in "iub"
    if labels.ndim == 2 and labels.shape[1] > 1:
        numeric = discrete or labels.dtype.kind == "f"
        if numeric and is_one_hot(labels):
            return labels.argmax(axis=-1)
        return None
    if discrete and labels.ndim in (1, 2):
        return labels.reshape(-1).astype("int64")
    return None
