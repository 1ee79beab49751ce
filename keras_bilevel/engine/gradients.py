"""Losses, their gradients, loss scaling, and the optimizer's step."""

import contextlib
import dataclasses
import threading

import keras
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine import replicas
from keras_bilevel.engine import state


class _Thread(threading.local):
    # `MirroredStrategy` traces every replica in a thread of its own.
    data_only = False


THREAD = _Thread()


@contextlib.contextmanager
def data_losses_only():
    """Leaves weight regularisers out of the `losses` of our models.

    Regularisers are not data: they stay out of the inner products and are
    added once, after weighting.
    """
    THREAD.data_only = True
    try:
        yield
    finally:
        THREAD.data_only = False


@contextlib.contextmanager
def without_regularizers(network):
    """Removes a network's weight regularisers within the context.

    Args:
        network: `keras.Model`. Its own `compute_loss` may add them.
    """
    regularized = {
        id(v): (v, v.regularizer)
        for v in network.trainable_variables
        if v.regularizer is not None
    }
    for variable, _ in regularized.values():
        variable.regularizer = None
    try:
        yield
    finally:
        for variable, regularizer in regularized.values():
            variable.regularizer = regularizer


def data_loss(model, part, training=True):
    """Returns predictions and loss of a part of the batch.

    Args:
        model: A `Wrapper`, compiled.
        part: Tuple `(x, y, sample_weight)`.
        training: Boolean.
    """
    with data_losses_only():
        y_pred = model(part[0], training=training)
    return y_pred, data_loss_of(model, part, y_pred, training)


def data_loss_of(model, part, y_pred, training=True):
    """Returns the loss of given predictions for `part[0]`.

    Regularisers are left out. Keras divides the loss by the number of replicas,
    which is undone.
    """
    with data_losses_only():
        value = loss_of(model, part, y_pred, training)
    return value * replicas.num_replicas()


def loss_of(model, part, y_pred, training=True):
    """Returns the loss that Keras would train on, a scalar.

    Args:
        model: A `Wrapper`, compiled.
        part: Tuple `(x, y, sample_weight)`.
        y_pred: Its predictions for `x`, made just before.
        training: Boolean.
    """
    x, y, sample_weight = part
    return model.compute_loss(x, y, y_pred, sample_weight, training=training)


def weighted(batch, weights):
    """Returns `(x, y, sample_weight)`, weights multiplied by `weights`.

    Args:
        batch: A `Batch`.
        weights: Float tensor of shape `(batch_size,)`.
    """
    if batch.sample_weight is None:
        return batch.x, batch.y, weights
    product = map_tensors(lambda w: times(w, weights), batch.sample_weight)
    return batch.x, batch.y, product


def times(user, weights):
    """Multiplies the user's weights, if there are any, by one per example."""
    if user is None:
        return weights
    ones = [1] * (len(user.shape) - 1)
    return tf.cast(user, weights.dtype) * tf.reshape(weights, (-1, *ones))


def slopes_in_weights(network, batch, y_pred):
    """Returns the derivative of a loss in the weight of each example.

    Args:
        network: A compiled `Wrapper`.
        batch: A `Batch`.
        y_pred: What the network predicts for it.

    Returns:
        Float32 tensor of shape `(batch_size,)`.
    """
    ones = tf.ones(tf.shape(tensors(batch.y)[0])[:1])
    with tf.GradientTape() as tape:
        tape.watch(ones)
        value = loss_of(network, weighted(batch, ones), y_pred)
    slopes = tape.gradient(value, ones)
    check_weighed(network, slopes)
    return tf.cast(slopes, tf.float32)


def check_weighed(network, slopes):
    """Raises `ValueError` where a loss does not use its sample weights."""
    if slopes is None:
        raise ValueError(
            "Expected a loss that uses `sample_weight`, by which single "
            "examples are weighed. Received: `compute_loss` of "
            f"{type(network.model).__name__}, which does not. Multiply the "
            "loss of each example by it, or pass it on to "
            "`super().compute_loss`."
        )


def has_other_parts(network):
    """Returns whether parts of the loss may not depend on example weights.

    Args:
        network: A `Wrapper` that was just called.
    """
    with data_losses_only():
        return network.has_own_loss() or len(network.losses) > 0


def suspects(network):
    """Returns a hint which layers to check if a derivative is wrong.

    Args:
        network: `keras.Model`.
    """
    own = [
        f"`{layer.name}` ({type(layer).__name__})"
        for layer in keras_private.all_layers(network, include_self=False)
        if not type(layer).__module__.startswith("keras.")
        or type(layer) in (keras.layers.Lambda, keras.layers.Resizing)
        or not _is_keras_own(getattr(layer, "activation", None))
    ]
    named = ", ".join(own) or "the operations between its layers"
    return (
        f"Look first at {named}: write what TensorFlow cannot differentiate "
        "twice with other operations, or weigh shards instead, with "
        "`kb.weighting.DeepBilevel`."
    )


def _is_keras_own(function):
    return getattr(function, "__module__", "keras").startswith("keras")


def data_gradient(model, part, scale):
    """Returns predictions, loss and gradient of a part of the batch.

    Args:
        model: A `BilevelModel`.
        part: Tuple `(x, y, sample_weight)`.
        scale: The `LossScale`.

    Returns:
        Tuple of `y_pred`, the scalar loss and a list with the gradient of each
        trainable variable, float32 and without the scale; `None` where the
        loss does not reach the variable.
    """
    with tf.GradientTape() as tape:
        y_pred, loss = data_loss(model, part)
        scaled = scale.up(loss)
    gradients = tape.gradient(scaled, model.trainable_variables)
    return y_pred, loss, [scale.down(g) for g in gradients]


def add_regularizers(step):
    """Adds the weight regularisers to a step.

    They count at full strength, whatever the weights of examples are. With R
    replicas each replica adds 1/R of their gradients, since the optimizer sums
    over replicas.

    Args:
        step: A `Step`.

    Returns:
        The step with `penalty` and `pulls`, if there are any regularisers.
    """
    with tf.GradientTape() as tape:
        penalties = [
            tf.cast(v.regularizer(v), tf.float32)
            for v in step.variables
            if v.regularizer is not None
        ]
        if not penalties:
            return step
        penalty = tf.add_n(penalties)
        share = penalty / replicas.num_replicas()
    pulls = tape.gradient(share, step.variables)
    return dataclasses.replace(
        step,
        penalty=penalty,
        pulls=pulls,
    )


def _add(gradient, penalty):
    if penalty is None:
        return gradient
    penalty = tf.cast(tf.convert_to_tensor(penalty), tf.float32)
    return penalty if gradient is None else gradient + penalty


class LossScale:
    """Scales losses up and gradients down again.

    Inner products need unscaled gradients, `optimizer.apply` expects scaled
    ones.

    Args:
        optimizer: The compiled optimizer, built.

    Attributes:
        is_active: Boolean, whether there is a scale.
        is_dynamic: Boolean. A dynamic scale has to see non-finite values, or it
            never falls. So nothing may be masked then.
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
        """Returns `value`, or 0 where it is not healthy (not if dynamic)."""
        return value if self.is_dynamic else tf.where(healthy, value, 0.0)


def apply(optimizer, step, scale):
    """Applies the optimizer to gradients that are summed over replicas.

    The optimizer sums the replicas' parts. Before that, however, it clips each
    part and checks whether it is finite. Both are only right for the sum, so
    they are done here.

    Args:
        optimizer: The compiled optimizer, built.
        step: A `Step`.
        scale: The `LossScale`.
    """
    gradients = step.gradients
    if step.pulls is not None:
        gradients = [_add(g, p) for g, p in zip(gradients, step.pulls)]
    if replicas.num_replicas() > 1:
        gradients = _clipped(gradients, optimizer)
    gradients = [scale.up(g) for g in gradients]
    if replicas.num_replicas() > 1 and scale.is_dynamic:
        gradients = _spread(gradients)
    optimizer.apply(gradients, step.variables)


def _clipped(gradients, optimizer):
    """Clips the sum over R replicas, and returns 1/R of it on each.

    This share is below the limit, so the optimizer does not clip it again.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    clip = _clip(optimizer)
    # With accumulation, Keras clips the accumulated gradient, not this one.
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

    Before it sums, a LossScaleOptimizer asks only the first replica whether to
    skip the step.
    """
    finite = state.all_finite([g for g in gradients if g is not None])
    poison = replicas.reduce_sum(tf.where(finite, 0.0, float("nan")))
    return [None if g is None else g + poison for g in gradients]
