"""Gradients, second derivatives in weights, and the optimizer's step."""

import contextlib

import keras
import tensorflow as tf

from keras_bilevel.engine import state
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import replicas


def differentiate(function, variables):
    """Differentiates what a function computes, in variables.

    Args:
        function: Callable of `pause` that returns a scalar and anything else.
            `pause()` is a context of which nothing is differentiated.
        variables: List of `keras.Variable`.

    Returns:
        Tuple of the scalar, of anything else, and of a list with the gradient
        of each variable, `None` where the scalar does not depend on it.
    """
    with tf.GradientTape() as tape:
        value, found = function(tape.stop_recording)
    return value, found, tape.gradient(value, variables)


def slopes(function, weights):
    """Returns the derivative of a function of weights, `None` if it has none.

    Args:
        function: Callable of a tensor of the shape of `weights` to a scalar.
        weights: Tensor.
    """
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = function(weights)
    return tape.gradient(value, weights)


def discarding_updates():
    """Returns a context that a pass runs in whose updates are taken back."""
    return contextlib.nullcontext()


def inner_product(a, b):
    """Returns the inner product of two tensors of one shape, float32."""
    a, b = (tf.cast(tf.reshape(t, (1, -1)), tf.float32) for t in (a, b))
    # Much faster on a CPU than `tensordot`, or a sum of products.
    return tf.matmul(a, b, transpose_b=True)[0, 0]


def dense(gradient):
    """Returns a gradient as a float32 tensor, `None` for `None`."""
    if gradient is None:
        return None
    # The gradient of an embedding is sparse, a `tf.IndexedSlices`.
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def kept_if(healthy, gradient, nothing):
    """Returns a gradient, or one number in place of all its entries.

    Args:
        healthy: Boolean scalar, whether the gradient is kept.
        gradient: List of tensors and `None`.
        nothing: Float, the number.
    """
    present = [g for g in gradient if g is not None]
    kept = iter(
        at_once.shortcut(
            healthy,
            lambda: present,
            lambda: [tf.where(healthy, g, nothing) for g in present],
        )
    )
    return [None if g is None else next(kept) for g in gradient]


def apply(model, step, scale):
    """Applies the optimizer to gradients that are summed over replicas.

    The optimizer sums the replicas' parts. Before that, however, it clips each
    part and checks whether it is finite. Both are only right for the sum, so
    they are done here.

    Args:
        model: The `keras.Model` that is trained, its optimizer built.
        step: A `Step`.
        scale: The `LossScale`.
    """
    gradients = step.all_gradients()
    if replicas.num_replicas() > 1:
        gradients = _clipped(gradients, model.optimizer)
    gradients = [scale.up(g) for g in gradients]
    if replicas.num_replicas() > 1 and scale.is_dynamic:
        gradients = _spread(gradients)
    model.optimizer.apply(gradients, step.variables)


def _clipped(gradients, optimizer):
    """Clips the sum over R replicas, and returns 1/R of it on each.

    This share is below the limit, so the optimizer does not clip it again.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    clip = _clip(optimizer)
    if clip is None:
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

    Before it sums, a LossScaleOptimizer asks only the first replica whether to
    skip the step.
    """
    finite = state.all_finite([g for g in gradients if g is not None])
    poison = replicas.reduce_sum(tf.where(finite, 0.0, float("nan")))
    return [None if g is None else g + poison for g in gradients]
