"""Replaces the examples of a batch whose loss or gradient is not finite."""

import dataclasses

from keras import ops

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import per_row
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.backend import gradients

# Beyond this, sums of squares and of products may overflow float32.
_HUGE = 1e36

_PARTS = ("x", "y", "sample_weight")


def without_bad(network, batch, scale):
    """Replaces bad examples by a good one of the same batch.

    An example is bad if its loss or its gradient is not finite. (Behind a ReLU
    the gradient may be non-finite although the loss is finite.) A weight of 0
    does not exclude it: 0 * NaN is NaN, and BatchNorm would spread it.

    Only examples with non-finite or huge data are suspects. Not all of them are
    bad: NaN may stand for "missing".

    Args:
        network: The `Wrapper` of the network.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`. If it is dynamic, nothing is replaced: it has to
            see non-finite values.

    Returns:
        Tuple of the `Batch` and a boolean tensor of shape `(batch_size,)`,
        `True` where an example was not replaced.
    """
    parts = (batch.x, batch.y, batch.sample_weight)
    flat = tensors(parts)
    everything = ops.ones(ops.shape(flat[0])[:1], "bool")
    floats = [t for t in flat if "float" in ops.dtype(t)]
    if scale.is_dynamic or not floats:
        return batch, everything
    suspect = ops.any(ops.stack(list(map(_has_extremes, floats))), axis=0)

    def replace():
        good = _find_good(network, batch, suspect)
        return good, tensors(_replaced(batch, good))

    good, replaced = ops.cond(
        ops.any(suspect), replace, lambda: (everything, flat)
    )
    remaining = iter(replaced)
    x, y, sample_weight = map_tensors(lambda t: next(remaining), parts)
    mended = dataclasses.replace(batch, x=x, y=y, sample_weight=sample_weight)
    return mended, good


def _has_extremes(values):
    values = ops.reshape(values, (ops.shape(values)[0], -1))
    # A sum of numbers takes half the time of `all` of as many comparisons.
    total = ops.sum(ops.square(ops.cast(values, "float32")), axis=1)
    # Not `~(total < _HUGE)`: TensorFlow makes `total >= _HUGE` of that, which
    # is false for NaN.
    return ops.isnan(total) | (total >= _HUGE)


def _find_good(network, batch, suspect):
    """Returns which examples have a finite loss and gradient, `(batch_size,)`.

    Both are computed in inference mode, in which no example affects another.
    Gradients are not computed one by one. If the joint gradient of the suspects
    with a finite loss is not finite, all suspects count as bad.
    """
    moving = state.moving_statistics(network)
    before = state.read(moving)
    with gradients.discarding_updates():
        slopes = gradients.slopes(
            lambda weights: _loss(network, batch, weights),
            ops.ones(ops.shape(suspect)),
        )
        losses.check_weighed(network, slopes)
        good = ~suspect | ops.isfinite(slopes)
        rest = dataclasses.replace(
            batch, **dict(zip(_PARTS, _replaced(batch, good)))
        )
        counts = ops.cast(suspect & good, "float32")
        _, _, gradient = gradients.differentiate(
            lambda pause: (_loss(network, rest, counts), None),
            network.trainable_variables,
        )
        state.write(moving, before)
    # Squares must be finite too: alignments are products of two gradients.
    squares = [
        ops.sum(ops.square(ops.cast(part, "float32")))
        for part in gradient
        if part is not None
    ]
    return good & (~suspect | state.all_finite(squares))


def _loss(network, batch, weights):
    part = losses.weighted(batch, weights)
    return losses.data_loss(network, part, training=False)[1]


def _replaced(batch, good):
    """Returns `(x, y, sample_weight)` with a good example for each bad one."""
    row = ops.argmax(ops.cast(good, "int32"))
    return map_tensors(
        lambda t: ops.where(per_row(good, t), t, ops.take(t, row, axis=0)),
        tuple(getattr(batch, name) for name in _PARTS),
    )
