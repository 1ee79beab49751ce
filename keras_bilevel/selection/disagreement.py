"""Where networks do not predict the same class."""

import keras
from keras import ops


def disagreement(y_preds, from_logits):
    """Marks the examples that not all networks tell alike.

    Args:
        y_preds: List of predictions, one structure of tensors of shape
            `(batch_size, ..., classes)` for each network. A last axis of 1
            means two classes.
        from_logits: Boolean, whether a single number is a logit.

    Returns:
        Boolean tensor of shape `(batch_size,)`: where any output of any
        network differs from the first network's.
    """
    first, *others = (_classes(y_pred, from_logits) for y_pred in y_preds)
    differ = [
        ops.any(mine != theirs, axis=-1)
        for other in others
        for mine, theirs in zip(first, other)
    ]
    if not differ:
        return ops.zeros_like(first[0][:, 0], "bool")
    return ops.any(ops.stack(differ), axis=0)


def _classes(y_pred, from_logits):
    """Returns integer tensors of shape `(batch_size, n)`, one an output."""
    return [_class(t, from_logits) for t in keras.tree.flatten(y_pred)]


def _class(y_pred, from_logits):
    if y_pred.shape[-1] == 1:
        threshold = 0.0 if from_logits else 0.5
        predicted = ops.cast(y_pred > threshold, "int32")
    else:
        predicted = ops.argmax(y_pred, axis=-1)
    return ops.reshape(predicted, (ops.shape(predicted)[0], -1))
