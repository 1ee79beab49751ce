"""The loss scale that keeps float16 gradients from underflow."""

import keras
import tensorflow as tf


class LossScale:
    """Scales losses up and gradients down again.

    Inner products need true gradients, and `optimizer.apply` wants scaled
    ones; the two meet here.

    Args:
        optimizer: The compiled optimizer, built.

    Attributes:
        is_active: Boolean, whether there is a scale.
        is_dynamic: Boolean. A dynamic scale has to see what is not finite, or
            it never falls: nothing may be masked then.
    """

    def __init__(self, optimizer):
        self.is_dynamic = isinstance(
            optimizer, keras.optimizers.LossScaleOptimizer
        )
        has_scale = self.is_dynamic or optimizer.loss_scale_factor is not None
        self.is_active = has_scale
        self._factor = optimizer.scale_loss(1.0) if has_scale else None

    def up(self, loss):
        if self._factor is None or loss is None:
            return loss
        return loss * tf.cast(self._factor, loss.dtype)

    def down(self, gradient):
        """Returns a dense float32 gradient without the scale, or `None`."""
        if gradient is None:
            return None
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
        return gradient if self._factor is None else gradient / self._factor

    def mask(self, healthy, value):
        """Returns 0 where `value` is not healthy, unless it has to be seen."""
        return value if self.is_dynamic else tf.where(healthy, value, 0.0)
