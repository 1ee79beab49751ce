"""The gradients of all shards from one pass over the super-batch.

Where no layer mixes examples, the outputs of all layers and the deltas of all
shards are those of one large batch. Only what is left, a layer's gradient from
its inputs and the deltas of its outputs, is taken shard by shard, and of dense
layers not even that: see `dense_layers`.
"""

import collections

import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine import calls
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.dense_layers import DenseCall
from keras_bilevel.engine.structure import map_rows
from keras_bilevel.engine.structure import map_tensors
from keras_bilevel.engine.structure import unstack


def can_share(model, weighting, scale):
    """Returns whether one pass gives what a pass for each shard would.

    Args:
        model: A built `BilevelModel`.
        weighting: A `Weighting` whose unit is the shard.
        scale: The `LossScale`.
    """
    return (
        calls.keeps_rows_apart(model.model)
        and not scale.is_active
        # One mask for all shards, not one for each example.
        and not weighting.same_dropout
        # A call is made again, outside of the layer: nothing may be cast.
        and not any(map(_casts, keras_private.all_layers(model.model)))
    )


def _casts(layer):
    policy = layer.dtype_policy
    return policy.compute_dtype != policy.variable_dtype


class OnePass:
    """A forward and a backward pass over all shards.

    Args:
        model: A built `BilevelModel` for which `can_share`.
        weighting: The `Weighting`.
        shards: Tuple `(x, y, sample_weight)` of tensors of shape
            `(num_shards, shard_size, ...)`.

    Attributes:
        dense: List of the `DenseCall`s. `gradient` leaves them out.
    """

    def __init__(self, model, weighting, shards):
        self._count = weighting.num_shards
        self._variables = model.trainable_variables
        with (
            tf.GradientTape() as tape,
            calls.recorded(model.model, self._variables) as recorded,
        ):
            x = map_tensors(_merge, shards[0])
            y_pred = losses.predictions(model, x)
            self._y_pred = map_rows(lambda t: self._cut(t), y_pred)
            parts = [
                _loss(model, part, rows)
                for part, rows in zip(
                    unstack(shards, self._count),
                    unstack(self._y_pred, self._count),
                )
            ]
            total = tf.add_n(parts)
        self._losses = tf.stack(parts)
        deltas = tape.gradient(total, [call.output for call in recorded])
        times = collections.Counter(id(call.layer) for call in recorded)
        self.dense, self._calls = [], []
        for call, delta in zip(recorded, deltas):
            if delta is None:
                continue
            delta = self._cut(delta)
            # Inner products among shards need the gradients themselves.
            is_alone = "gram" not in weighting.statistics
            is_alone = is_alone and times[id(call.layer)] == 1
            if is_alone and DenseCall.is_worth_it(call, delta):
                self.dense.append(DenseCall.of(call, delta))
            else:
                self._calls.append((call, delta))

    def _cut(self, batch):
        """Reshapes one batch to `(num_shards, shard_size, ...)`."""
        return tf.reshape(batch, (self._count, -1, *batch.shape[1:]))

    def _part(self, index):
        return map_rows(lambda t: t[index], self._y_pred)

    def gradient(self, index):
        """Returns predictions, loss and gradient of one shard.

        Args:
            index: Integer or integer scalar tensor; a slice of several shards
                where `dense` has all there is.

        Returns:
            As `losses.data_gradient`; `None` for what `dense` has, too.
        """
        parts = [
            (
                call,
                call.gradient_of_rows(
                    lambda t: self._cut(t)[index], deltas[index]
                ),
            )
            for call, deltas in self._calls
        ]
        return (
            self._part(index),
            self._losses[index],
            calls.summed(parts, self._variables),
        )


def _loss(model, part, y_pred):
    # A shard that is not finite must not stay in the outputs' own losses.
    with state.finite_only(state.moving_statistics(model)):
        return losses.data_loss_of(model, part, y_pred)


def _merge(shards):
    """Reshapes `(num_shards, shard_size, ...)` to one batch."""
    return tf.reshape(shards, (-1, *shards.shape[2:]))
