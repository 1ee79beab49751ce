"""Loss and gradient of one part of a batch, and of the regularisers."""

import contextlib
import threading

import keras
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine import replicas
from keras_bilevel.engine.structure import map_tensors
from keras_bilevel.engine.structure import tensors

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


@contextlib.contextmanager
def without_regularizers(network):
    """Takes the weight regularisers off a network's variables for a while.

    Args:
        network: `keras.Model`, whose own `compute_loss` may add them up.
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
    return model(x, training=training)


def loss(model, part, y_pred, training=True):
    """Returns the loss that Keras would train on, a scalar.

    Args:
        model: A `Wrapper`, compiled.
        part: Tuple `(x, y, sample_weight)`.
        y_pred: What it predicted for `x` just before.
        training: Boolean.
    """
    x, y, sample_weight = part
    return model.compute_loss(
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
    product = map_tensors(lambda w: times(w, weights), batch.sample_weight)
    return batch.x, batch.y, product


def times(user, weights):
    """Returns the user's weights, or `None`, times weights per example."""
    if user is None:
        return weights
    ones = [1] * (len(user.shape) - 1)
    return tf.cast(user, weights.dtype) * tf.reshape(weights, (-1, *ones))


def slopes_in_weights(network, batch, y_pred):
    """Returns how a loss changes with the weight of each example.

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
        value = loss(network, weighted(batch, ones), y_pred)
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
    """Returns whether the loss may have parts that no example's weight moves.

    Args:
        network: A `Wrapper` that was just called.
    """
    with data_losses_only():
        return network.has_own_loss() or len(network.losses) > 0


def suspects(network):
    """Returns which layers to look at where a derivative is wrong, as a text.

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
