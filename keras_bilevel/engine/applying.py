"""What happens to a gradient between the step and the optimizer."""

import keras
import tensorflow as tf

from keras_bilevel.engine import replicas
from keras_bilevel.engine import state


def apply(optimizer, gradients, variables, scale):
    """Lets the optimizer follow a gradient, of which each replica has a part.

    The optimizer sums the parts. What it does to each of them before, though,
    is right for the sum only, and is seen to here.

    Args:
        optimizer: The compiled optimizer, built.
        gradients: List of tensors, `None` where no loss reaches.
        variables: List of the trainable variables.
        scale: The `LossScale`.
    """
    if replicas.num_replicas() > 1:
        gradients = _clipped(gradients, optimizer)
    gradients = [scale.up(g) for g in gradients]
    if replicas.num_replicas() > 1 and scale.is_dynamic:
        gradients = _spread(gradients)
    optimizer.apply(gradients, variables)


def _clipped(gradients, optimizer):
    """Clips the sum; each replica's share of it, 1/R, is not clipped again."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    clip = _clip(optimizer)
    # Keras clips what it has accumulated: that is not there yet.
    if clip is None or optimizer.gradient_accumulation_steps:
        return gradients
    count = replicas.num_replicas()
    means = replicas.reduce_mean(gradients)
    present = [count * g for g in means if g is not None]
    clipped = iter(clip(present))
    return [None if g is None else next(clipped) / count for g in gradients]


def _clip(optimizer):
    """Returns how an optimizer clips a list of gradients, or `None`."""
    if optimizer.clipnorm:
        return lambda gs: [tf.clip_by_norm(g, optimizer.clipnorm) for g in gs]
    if optimizer.global_clipnorm:
        most = optimizer.global_clipnorm
        return lambda gs: tf.clip_by_global_norm(gs, most)[0]
    if optimizer.clipvalue:
        most = optimizer.clipvalue
        return lambda gs: [tf.clip_by_value(g, -most, most) for g in gs]
    return None


def _spread(gradients):
    """Propagates a non-finite value to all replicas.

    A LossScaleOptimizer asks the first replica alone whether to skip the step,
    before it sums.
    """
    finite = state.all_finite([g for g in gradients if g is not None])
    poison = replicas.reduce_sum(tf.where(finite, 0.0, float("nan")))
    return [None if g is None else g + poison for g in gradients]
