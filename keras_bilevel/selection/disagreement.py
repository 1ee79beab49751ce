"""Where networks do not predict the same class."""

import keras
from keras import ops


def disagreement(y_preds, from_logits, counts=None):
    """Marks the examples of which networks predict different classes.

    Args:
        y_preds: List of predictions, one structure of tensors of shape
            `(batch_size, ..., classes)` for each network. A last axis of 1
            means two classes.
        from_logits: Boolean, whether a single number is a logit.
        counts: List with a boolean tensor of shape `(batch_size, ...)` for
            each output, which of its predictions count, or `None` for an output
            that does not count. Defaults to `None`: all count.

    Returns:
        Boolean tensor of shape `(batch_size,)`: where any output of any
        network differs from the first network's.
    """
    first, *others = (_classes(y_pred, from_logits) for y_pred in y_preds)
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


def _classes(y_pred, from_logits):
    """Returns integer tensors of shape `(batch_size, n)`, one per output."""
    return [_class(t, from_logits) for t in keras.tree.flatten(y_pred)]


def _like(count, classes):
    """Returns a mask of the classes that count, `(batch_size, n)`."""
    if count is True:
        return ops.ones_like(classes, "bool")
    count = ops.reshape(count, (ops.shape(count)[0], -1))
    if count.shape[1] == classes.shape[1]:
        return count
    return ops.any(count, axis=1, keepdims=True)


def _class(y_pred, from_logits):
    if y_pred.shape[-1] == 1:
        threshold = 0.0 if from_logits else 0.5
        predicted = ops.cast(y_pred > threshold, "int32")
    else:
        predicted = ops.argmax(y_pred, axis=-1)
    return ops.reshape(predicted, (ops.shape(predicted)[0], -1))
