"""What losses of noisy labels have in common: how they read their inputs."""

import keras
from keras import ops

from keras_bilevel import checks


class LabelLoss(keras.losses.Loss):
    """Base of the losses between class labels and predictions.

    Labels may be integers, `(batch_size, d0, .. dN)` with or without a last
    axis of 1, or one-hot, of the shape of the predictions. The loss of an
    integer that is no class is NaN.

    Args:
        from_logits: Boolean, whether predictions are logits. If `False`, they
            are probabilities.
        **kwargs: Arguments of `keras.losses.Loss`.
    """

    def __init__(self, from_logits, **kwargs):
        super().__init__(**kwargs)
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        num_classes = y_pred.shape[-1]
        if num_classes < 2:
            raise checks.wrong(
                "argument `y_pred`",
                "predictions of shape (batch_size, .., num_classes) for at "
                "least 2 classes",
                f"shape {y_pred.shape}",
                "Let the network end in `Dense(2)` in place of `Dense(1)`.",
            )
        if len(y_true.shape) < len(y_pred.shape):
            y_true = ops.expand_dims(y_true, axis=-1)
        if y_true.shape[-1] == 1:
            classes = ops.cast(ops.squeeze(y_true, axis=-1), "int32")
            is_class = (classes >= 0) & (classes < num_classes)
            y_true = ops.one_hot(classes, num_classes)
            # Of a label that is no class `one_hot` makes zeros: no loss.
            y_true = ops.where(is_class[..., None], y_true, float("nan"))
        if self.from_logits:
            logs = ops.log_softmax(y_pred)
        else:
            total = ops.sum(y_pred, axis=-1, keepdims=True)
            logs = safe_log(y_pred / total)
        return self.between(ops.cast(y_true, y_pred.dtype), logs)

    def between(self, labels, logs):
        """Returns the loss of each example, `(batch_size, d0, .. dN)`.

        Args:
            labels: One-hot tensor of the shape of `logs`.
            logs: Tensor, `(batch_size, d0, .. dN, num_classes)`, the
                logarithms of the predicted probabilities.
        """
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


def safe_log(probabilities):
    """Returns logarithms, clipped as in Keras' own cross-entropy."""
    small = keras.config.epsilon()
    return ops.log(ops.clip(probabilities, small, 1.0 - small))
