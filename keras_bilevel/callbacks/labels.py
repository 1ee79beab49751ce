"""What a prediction says about the label that was given."""

from keras import ops


def given_probability(y, y_pred, from_logits):
    """Returns the predicted probability of each example's given label.

    Args:
        y: Integer labels of shape `(batch_size,)` or `(batch_size, 1)`, or
            one-hot labels of the shape of `y_pred`.
        y_pred: Predictions of shape `(batch_size, classes)`; or
            `(batch_size, 1)` for two classes.
        from_logits: Boolean, whether predictions are logits.

    Returns:
        Float tensor of shape `(batch_size,)`.
    """
    y_pred = ops.cast(y_pred, "float32")
    if y_pred.shape[-1] == 1:
        positive = ops.sigmoid(y_pred) if from_logits else y_pred
        y = ops.cast(ops.reshape(y, (-1,)), "float32")
        positive = ops.reshape(positive, (-1,))
        return y * positive + (1.0 - y) * (1.0 - positive)
    probabilities = ops.softmax(y_pred) if from_logits else y_pred
    if len(y.shape) == 2 and y.shape[-1] == y_pred.shape[-1]:
        one_hot = ops.cast(y, "float32")
    else:
        one_hot = ops.one_hot(ops.reshape(y, (-1,)), y_pred.shape[-1])
    return ops.sum(probabilities * one_hot, axis=-1)


def classes(y):
    """Returns integer classes of labels or predictions.

    Args:
        y: Array of shape `(batch_size,)`, `(batch_size, 1)` or
            `(batch_size, classes)`.
    """
    if len(y.shape) == 2 and y.shape[-1] > 1:
        return ops.convert_to_numpy(ops.argmax(y, axis=-1))
    return ops.convert_to_numpy(ops.reshape(y, (-1,)))


def predicts_logits(loss):
    """Returns whether a compiled loss was made for logits."""
    return bool(getattr(loss, "from_logits", False))
