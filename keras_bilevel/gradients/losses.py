"""Loss and gradient of one part of a batch, and of the regularisers."""

import contextlib
import threading

import keras
import tensorflow as tf

from keras_bilevel.gradients import replicas
from keras_bilevel.gradients.structure import map_tensors

_thread = threading.local()


@contextlib.contextmanager
def data_losses_only():
    """Leaves weight regularisers out of `BilevelModel.losses`.

    Regularisers are not data: they stay out of the inner products and are
    added once, after weighting. The flag belongs to a thread because
    `MirroredStrategy` traces every replica in a thread of its own.
    """
    _thread.data_only = True
    try:
        yield
    finally:
        _thread.data_only = False


def are_data_only():
    return getattr(_thread, "data_only", False)


def check_linear(loss):
    """Raises `ValueError` for a loss that is not linear in sample weights.

    Args:
        loss: What is given to `compile`: a loss or a structure of them.
    """
    for part in keras.tree.flatten(loss):
        if getattr(part, "reduction", None) == "mean_with_sample_weight":
            raise ValueError(
                "Expected a loss that is linear in the sample weights, so that "
                "every example has a part of it. Received: "
                f"{type(part).__name__} with "
                "reduction='mean_with_sample_weight', which divides by the "
                "sum of the weights. Use reduction='sum_over_batch_size'."
            )


def data_loss(model, part, training=True):
    """Returns predictions and loss of a part of the batch.

    Regularisers are left out, and Keras' division of the loss by the number
    of replicas is undone.

    Args:
        model: A `Wrapper`, compiled.
        part: Tuple `(x, y, sample_weight)`.
        training: Boolean.
    """
    with data_losses_only():
        y_pred = predictions(model, part[0], training)
    return y_pred, data_loss_of(model, part, y_pred, training)


def data_loss_of(model, part, y_pred, training=True):
    """Returns `data_loss` of what was predicted for `part[0]` before."""
    with data_losses_only():
        value = loss(model, part, y_pred, training)
    return value * replicas.num_replicas()


def predictions(model, x, training=True):
    mode = {"training": training} if model._call_has_training_arg else {}
    return model(x, **mode)


def loss(model, part, y_pred, training=True):
    """Returns the loss that Keras would train on, a scalar.

    Args:
        model: A `Wrapper`, compiled.
        part: Tuple `(x, y, sample_weight)`.
        y_pred: What it predicted for `x` just before.
        training: Boolean.
    """
    x, y, sample_weight = part
    return model._compute_loss(
        x=x,
        y=y,
        y_pred=y_pred,
        sample_weight=sample_weight,
        training=training,
    )


def weighted(batch, weights):
    """Returns `(x, y, sample_weight)` with one more weight per example.

    Args:
        batch: A `Batch`.
        weights: Float tensor of shape `(batch_size,)`.
    """
    if batch.sample_weight is None:
        return batch.x, batch.y, weights
    product = map_tensors(lambda w: _times(w, weights), batch.sample_weight)
    return batch.x, batch.y, product


def _times(user, weights):
    ones = [1] * (len(user.shape) - 1)
    return tf.cast(user, weights.dtype) * tf.reshape(weights, (-1, *ones))


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


def add_regularizers(gradients, variables):
    """Adds the gradients of the weight regularisers, at full strength.

    With R replicas each adds 1/R of it, since the optimizer sums them.

    Args:
        gradients: List of tensors, `None` where no data loss reaches.
        variables: List of the trainable variables.

    Returns:
        Tuple of the new list and the scalar penalty.
    """
    with tf.GradientTape() as tape:
        penalties = [
            tf.cast(v.regularizer(v), tf.float32)
            for v in variables
            if v.regularizer is not None
        ]
        if not penalties:
            return gradients, 0.0
        penalty = tf.add_n(penalties)
        share = penalty / replicas.num_replicas()
    pulls = tape.gradient(share, variables)
    return [_add(g, p) for g, p in zip(gradients, pulls)], penalty


def _add(gradient, penalty):
    if penalty is None:
        return gradient
    penalty = tf.cast(tf.convert_to_tensor(penalty), tf.float32)
    return penalty if gradient is None else gradient + penalty
