"""Examples whose data spoil their loss, taken out of a batch."""

import dataclasses

import tensorflow as tf

from keras_bilevel.gradients import losses
from keras_bilevel.gradients import state
from keras_bilevel.gradients.structure import map_tensors
from keras_bilevel.gradients.structure import tensors


def without_bad(network, batch, scale):
    """Replaces bad examples by a good one of the same batch.

    An example that is to weigh 0 must not be in the batch at all: 0 * NaN is
    NaN, and BatchNorm would spread it. Bad is what has a loss that is not
    finite. That is found out only where the data themselves are not finite,
    which they may be by intent (NaN for "missing").

    Args:
        network: The `Wrapper` of the network.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`. A dynamic one has to see what is not finite.

    Returns:
        Tuple of the `Batch` and a boolean tensor of shape `(batch_size,)`,
        which examples are their own.
    """
    parts = (batch.x, batch.y, batch.sample_weight)
    flat = tensors(parts)
    everything = tf.ones(tf.shape(flat[0])[:1], tf.bool)
    floats = [t for t in flat if t.dtype.is_floating]
    if scale.is_dynamic or not floats:
        return batch, everything

    def replace():
        good = tf.math.is_finite(_losses(network, batch))
        row = tf.argmax(tf.cast(good, tf.int32))
        return good, [_where(good, t, tf.gather(t, row)) for t in flat]

    good, replaced = tf.cond(
        state.all_finite(floats), lambda: (everything, flat), replace
    )
    remaining = iter(replaced)
    x, y, sample_weight = map_tensors(lambda t: next(remaining), parts)
    mended = dataclasses.replace(batch, x=x, y=y, sample_weight=sample_weight)
    return mended, good


def _losses(network, batch):
    """Returns the losses in inference mode, where examples are apart."""
    moving = state.moving_statistics(network)
    before = state.read(moving)
    ones = tf.ones(tf.shape(tensors(batch.x)[0])[:1])
    with tf.GradientTape() as tape:
        tape.watch(ones)
        weighted = losses.weighted(batch, ones)
        _, loss = losses.data_loss(network, weighted, training=False)
    state.write(moving, before)
    return tape.gradient(loss, ones)


def _where(good, values, other):
    shape = (-1, *[1] * (len(values.shape) - 1))
    return tf.where(tf.reshape(good, shape), values, other)
