"""Examples whose data spoil their loss or gradient, taken out of a batch."""

import dataclasses

import tensorflow as tf

from keras_bilevel.gradients import losses
from keras_bilevel.gradients import state
from keras_bilevel.gradients.step import Batch
from keras_bilevel.gradients.structure import map_tensors
from keras_bilevel.gradients.structure import tensors

# A product of two such numbers is no float32.
_HUGE = 1e18


def without_bad(network, batch, scale):
    """Replaces bad examples by a good one of the same batch.

    An example that is to weigh 0 must not be in the batch at all: 0 * NaN is
    NaN, and BatchNorm would spread it. Bad is what has a loss or a gradient
    that is not finite: behind a ReLU only the gradient may be. That is found
    out example by example, only for those whose data are not finite or huge,
    which they may be by intent (NaN for "missing").

    Args:
        network: The `Wrapper` of the network.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`. A dynamic one has to see what is not finite.

    Returns:
        Tuple of the `Batch` and a boolean tensor of shape `(batch_size,)`,
        which examples were not replaced.
    """
    parts = (batch.x, batch.y, batch.sample_weight)
    flat = tensors(parts)
    everything = tf.ones(tf.shape(flat[0])[:1], tf.bool)
    floats = [t for t in flat if t.dtype.is_floating]
    if scale.is_dynamic or not floats:
        return batch, everything
    suspect = tf.reduce_any([_has_extremes(t) for t in floats], axis=0)

    def replace():
        good = _find_good(network, parts, suspect)
        row = tf.argmax(tf.cast(good, tf.int32))
        return good, [_where(good, t, tf.gather(t, row)) for t in flat]

    good, replaced = tf.cond(
        tf.reduce_any(suspect), replace, lambda: (everything, flat)
    )
    remaining = iter(replaced)
    x, y, sample_weight = map_tensors(lambda t: next(remaining), parts)
    mended = dataclasses.replace(batch, x=x, y=y, sample_weight=sample_weight)
    return mended, good


def _has_extremes(values):
    values = tf.reshape(values, (tf.shape(values)[0], -1))
    # A NaN is not below either.
    return ~tf.reduce_all(tf.abs(tf.cast(values, tf.float32)) < _HUGE, axis=1)


def _find_good(network, parts, suspect):
    """Returns which examples have a finite loss and gradient, `(batch_size,)`.

    Each suspect is alone in a batch, in inference mode.
    """
    moving = state.moving_statistics(network)
    before = state.read(moving)
    size = suspect.shape[0] if suspect.shape[0] else tf.shape(suspect)[0]
    found = tf.TensorArray(tf.bool, size, element_shape=[])

    def look(row, found):
        is_good = tf.cond(
            tf.gather(suspect, row),
            lambda: _is_good(network, _alone(network, parts, row)),
            lambda: tf.constant(True),
        )
        return row + 1, found.write(row, is_good)

    _, found = tf.while_loop(
        lambda row, _: row < size,
        look,
        (0, found),
        parallel_iterations=1,
        maximum_iterations=suspect.shape[0],
    )
    state.write(moving, before)
    return tf.ensure_shape(found.stack(), suspect.shape)


def _alone(network, parts, row):
    """Returns a `Batch` of one example, as often as the network demands."""
    inputs = getattr(network.model, "inputs", None) or [None]
    times = getattr(inputs[0], "shape", [None])[0] or 1
    rows = tf.fill((times,), row)
    return Batch(*map_tensors(lambda t: tf.gather(t, rows), parts))


def _is_good(network, batch):
    ones = tf.ones(tf.shape(tensors(batch.x)[0])[:1])
    part = losses.weighted(batch, ones)
    with tf.GradientTape() as tape:
        _, loss = losses.data_loss(network, part, training=False)
    gradient = tape.gradient(loss, network.trainable_variables)
    return state.all_finite(
        [loss, *(tf.convert_to_tensor(g) for g in gradient if g is not None)]
    )


def _where(good, values, other):
    shape = (-1, *[1] * (len(values.shape) - 1))
    return tf.where(tf.reshape(good, shape), values, other)
