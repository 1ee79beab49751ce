"""Sizes of the weights, taken over all replicas."""

import numpy as np
import tensorflow as tf

from keras_bilevel.engine import replicas


def normalizer(weighting, weights):
    """Returns the factor `1 / |w|_1` of each group (Eq. 10).

    It is 0 where no weight is left (or `|w|_1` underflows), so that the step
    applies a zero gradient and never a NaN.

    Args:
        weighting: A `Weighting`.
        weights: Tensor of shape `(groups, units)`, before normalisation.

    Returns:
        Tensor of shape `(groups,)`.
    """
    if not weighting.l1_normalize:
        return tf.ones_like(weights[:, 0])
    total = replicas.reduce_sum(tf.reduce_sum(tf.abs(weights), axis=1))
    underflows = total < np.finfo(np.float32).tiny
    return tf.where(underflows, 0.0, 1.0 / tf.where(underflows, 1.0, total))


def finite_or_zero(values):
    """Returns 0 where a value is not finite, for what is kept of a step."""
    return tf.where(tf.math.is_finite(values), values, 0.0)


def effective_units(weights):
    """Returns `|w|_1^2 / |w|_2^2` of each group, 0 where all weights are 0.

    Args:
        weights: Tensor of shape `(groups, units)`.

    Returns:
        Tensor of shape `(groups,)`; `1 / sum_i w_i^2` for normalised weights.
    """
    total, squares = replicas.reduce_sum(
        [
            tf.reduce_sum(tf.abs(weights), axis=1),
            tf.reduce_sum(tf.square(weights), axis=1),
        ]
    )
    return tf.math.divide_no_nan(tf.square(total), squares)
