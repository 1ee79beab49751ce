"""The losses of a network: of data alone, weighed by example, scaled."""

import contextlib
import threading

import keras
from keras import ops

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import per_row
from keras_bilevel.engine.backend import gradients
from keras_bilevel.engine.backend import replicas

# The largest `misfit` that rounding explains: alignments are sums of rounded
# products.
_MOST_MISFIT = 1e-4
_MOST_MISFIT_OF_HALF = 0.1


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
    return ops.cast(user, weights.dtype) * per_row(weights, user)


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


def most_misfit(network):
    """Returns the largest `misfit` that rounding alone explains.

    Args:
        network: `keras.Model`.
    """
    halves = ("float16", "bfloat16")
    is_half = any(
        layer.compute_dtype in halves
        for layer in keras_private.all_layers(network)
    )
    return _MOST_MISFIT_OF_HALF if is_half else _MOST_MISFIT


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
        f"Look first at {named}: write what cannot be differentiated "
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

    def compute(pause):
        y_pred, loss = data_loss(model, part)
        return scale.up(loss), (y_pred, loss)

    _, (y_pred, loss), gradient = gradients.differentiate(
        compute, model.trainable_variables
    )
    return y_pred, loss, [scale.down(g) for g in gradient]


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
        return loss * ops.cast(self._factor, loss.dtype)

    def down(self, gradient):
        """Returns a dense float32 gradient without the scale, or `None`."""
        gradient = gradients.dense(gradient)
        if gradient is None or self._factor is None:
            return gradient
        return gradient / self._factor

    def zero_unless(self, healthy, gradient):
        """Returns a gradient, or one that moves nothing where it is unhealthy.

        That is 0, or NaN for a dynamic scale, which falls by it.

        Args:
            healthy: Boolean scalar.
            gradient: List of tensors and `None`.
        """
        nothing = float("nan") if self.is_dynamic else 0.0
        return gradients.kept_if(healthy, gradient, nothing)

    def mask(self, healthy, value):
        """Returns `value`, or 0 where it is not healthy (not if dynamic)."""
        return value if self.is_dynamic else ops.where(healthy, value, 0.0)
