"""Where networks do not predict the same class."""

import keras
from keras import ops


def disagreement(y_preds, thresholds, counts=None):
    """Marks the examples of which networks predict different classes.

    Args:
        y_preds: List of predictions, one structure of tensors of shape
            `(batch_size, ..., classes)` for each network.
        thresholds: List with a float for each output of which each number is a
            prediction of its own, yes above it and no below, and `None` for
            each output whose last axis has one number for each class.
        counts: List with a boolean tensor of shape `(batch_size, ...)` for
            each output, which of its predictions count, or `None` for an output
            that does not count. Defaults to `None`: all count.

    Returns:
        Boolean tensor of shape `(batch_size,)`: where any output of any
        network differs from the first network's.
    """
    first, *others = (_classes(y_pred, thresholds) for y_pred in y_preds)
    counts = [True] * len(first) if counts is None else counts
    differ = [
        ops.any((mine != theirs) & _like(count, mine), axis=-1)
        for other in others
        for mine, theirs, count in zip(first, other, counts)
        if count is not None
    ]
    if not differ:
        return ops.zeros_like(first[0][:, 0], "bool")
    return ops.any(ops.stack(differ), axis=0)


def _classes(y_pred, thresholds):
    """Returns tensors of shape `(batch_size, n)`, one per output."""
    return list(map(_class, keras.tree.flatten(y_pred), thresholds))


def _like(count, classes):
    """Returns a mask of the classes that count, `(batch_size, n)`."""
    if count is True:
        return ops.ones_like(classes, "bool")
    count = ops.reshape(count, (ops.shape(count)[0], -1))
    if count.shape[1] == classes.shape[1]:
        return count
    return ops.any(count, axis=1, keepdims=True)


def _class(y_pred, threshold):
    if threshold is None:
        predicted = ops.argmax(y_pred, axis=-1)
    else:
        predicted = y_pred > threshold
    return ops.reshape(predicted, (ops.shape(predicted)[0], -1))
