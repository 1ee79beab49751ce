"""Examples whose data spoil their loss or gradient, taken out of a batch."""

import dataclasses

import tensorflow as tf

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine import gradients
from keras_bilevel.engine import state

# A product of two such numbers is no float32.
_HUGE = 1e18

_PARTS = ("x", "y", "sample_weight")


def without_bad(network, batch, scale):
    """Replaces bad examples by a good one of the same batch.

    An example that is to weigh 0 must not be in the batch at all: 0 * NaN is
    NaN, and BatchNorm would spread it. Bad is what has a loss or a gradient
    that is not finite: behind a ReLU only the gradient may be. That is looked
    for only among those whose data are not finite or huge, which they may be
    by intent (NaN for "missing").

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
        good = _find_good(network, batch, suspect)
        return good, tensors(_replaced(batch, good))

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


def _find_good(network, batch, suspect):
    """Returns which examples have a finite loss and gradient, `(batch_size,)`.

    Both are taken in inference mode, where examples are apart. If the gradient
    of those with a finite loss is not finite, all suspects are bad: it is not
    taken of each of them.
    """
    moving = state.moving_statistics(network)
    before = state.read(moving)
    ones = tf.ones(tf.shape(suspect))
    with tf.GradientTape() as tape:
        tape.watch(ones)
        loss = _loss(network, batch, ones)
    slopes = tape.gradient(loss, ones)
    gradients.check_weighed(network, slopes)
    good = ~suspect | tf.math.is_finite(slopes)
    rest = dataclasses.replace(
        batch, **dict(zip(_PARTS, _replaced(batch, good)))
    )
    with tf.GradientTape() as tape:
        loss = _loss(network, rest, tf.cast(suspect & good, tf.float32))
    gradient = tape.gradient(loss, network.trainable_variables)
    state.write(moving, before)
    # Alignments are products of two gradients.
    squares = [
        tf.reduce_sum(tf.square(tf.cast(tf.convert_to_tensor(g), tf.float32)))
        for g in gradient
        if g is not None
    ]
    return good & (~suspect | state.all_finite(squares))


def _loss(network, batch, weights):
    part = gradients.weighted(batch, weights)
    return gradients.data_loss(network, part, training=False)[1]


def _replaced(batch, good):
    """Returns `(x, y, sample_weight)` with a good example for each bad one."""
    row = tf.argmax(tf.cast(good, tf.int32))
    return map_tensors(
        lambda t: _where(good, t, tf.gather(t, row)),
        tuple(getattr(batch, name) for name in _PARTS),
    )


def _where(good, values, other):
    shape = (-1, *[1] * (len(values.shape) - 1))
    return tf.where(tf.reshape(good, shape), values, other)
