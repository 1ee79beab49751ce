"""Loss and gradient of one part of a batch, and of the regularisers."""

import contextlib
import threading

import tensorflow as tf

from keras_bilevel.gradients import replicas

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


def data_loss(model, part):
    """Returns predictions and loss of a part of the batch, as in training.

    Regularisers are left out, and Keras' division of the loss by the number
    of replicas is undone.

    Args:
        model: A `BilevelModel`.
        part: Tuple `(x, y, sample_weight)`.
    """
    x, y, sample_weight = part
    with data_losses_only():
        training = {"training": True} if model._call_has_training_arg else {}
        y_pred = model(x, **training)
        loss = model._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
    return y_pred, loss * replicas.num_replicas()


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
