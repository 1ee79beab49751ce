"""The gradients of all shards from one pass over the super-batch.

Where no layer mixes examples, the outputs of all layers and the deltas of all
shards are those of one large batch. Only what is left, a layer's gradient from
its inputs and the deltas of its outputs, is taken shard by shard. Of a dense
layer not even that: its gradient on a shard is `a^T d`, of its inputs `a` and
the deltas `d` of its outputs. Norms and inner products follow from these
factors, and so does a weighted sum over all shards: one product in place of one
for each shard, and no gradient of a single shard in memory.
"""

import collections
import dataclasses
import math

import keras
import tensorflow as tf
from keras import layers

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_rows
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import unstack
from keras_bilevel.engine import calls
from keras_bilevel.engine import gradients
from keras_bilevel.engine import state


def can_share(model, weighting, scale):
    """Returns whether one pass gives what a pass for each shard would.

    Args:
        model: A built `BilevelModel`.
        weighting: A `ShardWeighting`.
        scale: The `LossScale`.
    """
    # A call is made again, outside of the layer: nothing may be cast.
    layers_of_all = keras_private.all_layers(model.model)
    policies = [layer.dtype_policy for layer in layers_of_all]
    return (
        calls.keeps_rows_apart(model.model)
        and not scale.is_active
        # One mask for all shards, not one for each example.
        and not weighting.same_dropout
        and all(p.compute_dtype == p.variable_dtype for p in policies)
    )


class OnePass:
    """A forward and a backward pass over all shards.

    Args:
        model: A built `BilevelModel` for which `can_share`.
        weighting: The `ShardWeighting`.
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
            x = map_tensors(
                lambda t: tf.reshape(t, (-1, *t.shape[2:])), shards[0]
            )
            self._y_pred = model(x, training=True)
            losses = self._losses_of_shards(model, shards)
            total = tf.add_n(losses)
        self._losses = tf.stack(losses)
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

    def _losses_of_shards(self, model, shards):
        moving = state.moving_statistics(model)
        losses = []
        for part, y_pred in zip(
            unstack(shards, self._count),
            unstack(map_rows(self._cut, self._y_pred), self._count),
        ):
            # A shard that is not finite must not stay in the outputs' losses.
            with state.finite_only(moving):
                losses.append(gradients.data_loss_of(model, part, y_pred))
        return losses

    def _cut(self, batch):
        """Reshapes one batch to `(num_shards, shard_size, ...)`."""
        return tf.reshape(batch, (self._count, -1, *batch.shape[1:]))

    def gradient(self, index):
        """Returns loss and gradient of one shard, and nothing else to keep.

        Args:
            index: Integer or integer scalar tensor; a slice of several shards
                where `dense` has all there is.

        Returns:
            Tuple of the scalar loss, a list with the gradient of each
            trainable variable, float32, and an empty dict. The gradient is
            `None` where no loss reaches, and for what `dense` has.
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
        return self._losses[index], calls.summed(parts, self._variables), {}

    def predictions(self, kept):
        """Returns the predictions for the whole super-batch."""
        return self._y_pred


@dataclasses.dataclass(frozen=True)
class DenseCall:
    """The only call of a dense layer.

    Attributes:
        layer: The `keras.layers.Dense`.
        inputs: Tensor of shape `(num_shards, rows, inputs)`.
        deltas: Tensor of shape `(num_shards, rows, units)`, the derivatives
            of each shard's loss in the layer's outputs before activation.
    """

    layer: layers.Dense
    inputs: tf.Tensor
    deltas: tf.Tensor

    @classmethod
    def of(cls, call, deltas):
        """Builds it from a recorded `Call` and deltas `(num_shards, ...)`."""
        (inputs,) = filter(tf.is_tensor, keras.tree.flatten(call.inputs))
        count = deltas.shape[0]
        return cls(
            call.layer, *(_by_shard(rows, count) for rows in (inputs, deltas))
        )

    @staticmethod
    def is_worth_it(call, deltas):
        """Returns whether its factors are the cheaper form of a gradient.

        Args:
            call: A `Call`, the only one of its layer.
            deltas: Its deltas, `(num_shards, ...)`.
        """
        rows = deltas.shape[1:-1]
        if type(call.layer) is not layers.Dense or None in rows:
            return False
        # Nothing is frozen, and there are no variables of LoRA.
        if len(call.variables) != 1 + call.layer.use_bias:
            return False
        inputs, units = call.layer.kernel.shape
        return math.prod(rows) * (inputs + units) <= inputs * units

    @property
    def variables(self):
        bias = [self.layer.bias] if self.layer.use_bias else []
        return [self.layer.kernel, *bias]

    def norms(self):
        """Returns the squared norms of the gradients, `(num_shards,)`."""
        # |a^T d|^2 = sum_ij (a_i . a_j) (d_i . d_j). A bias is an input of 1.
        near = tf.matmul(self.inputs, self.inputs, transpose_b=True)
        if self.layer.use_bias:
            near += 1.0
        alike = tf.matmul(self.deltas, self.deltas, transpose_b=True)
        return tf.reduce_sum(near * alike, axis=(1, 2))

    def alignments(self, direction):
        """Returns the inner products with a direction, `(num_shards,)`.

        Args:
            direction: List of tensors, as `weighted_sum` returns.
        """
        tangents = tf.tensordot(self.inputs, direction[0], 1)
        if self.layer.use_bias:
            tangents += direction[1]
        return tf.reduce_sum(self.deltas * tangents, axis=(1, 2))

    def weighted_sum(self, weights, shards):
        """Returns the weighted sum of the gradients of some shards.

        Args:
            weights: Tensor of shape `(shards,)`; 0 leaves out a shard even
                where it is not finite.
            shards: A slice.

        Returns:
            List of the tensors for kernel and bias, if there is one.
        """
        weights = weights[:, None, None]
        inputs = tf.where(weights != 0.0, self.inputs[shards], 0.0)
        deltas = tf.math.multiply_no_nan(self.deltas[shards], weights)
        inputs, deltas = _as_matrix(inputs), _as_matrix(deltas)
        kernel = tf.matmul(inputs, deltas, transpose_a=True)
        if not self.layer.use_bias:
            return [kernel]
        return [kernel, tf.reduce_sum(deltas, axis=0)]


def _by_shard(rows, num_shards):
    """Reshapes to `(num_shards, rows, size)`, float32."""
    return tf.cast(
        tf.reshape(rows, (num_shards, -1, rows.shape[-1])), tf.float32
    )


def _as_matrix(rows):
    return tf.reshape(rows, (-1, rows.shape[-1]))
