"""The gradients of all shards from one pass over the super-batch.

Where no layer mixes examples, one forward and one backward pass over the whole
super-batch give the outputs of all layers and the deltas of all shards. Only
the last part is done shard by shard: a layer's gradient from its inputs and the
deltas of its outputs.

For a dense layer, even that can be avoided. Its gradient on a shard is `a^T d`,
with its inputs `a` and the deltas `d` of its outputs. Norms and inner products
follow from these factors. So does the weighted sum over all shards, by one
matrix product. No gradient of a single shard is held in memory.
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
    """Returns whether one pass gives the same as a pass for each shard.

    Args:
        model: A built `BilevelModel`.
        weighting: A `ShardWeighting`.
        scale: The `LossScale`.
    """
    # Calls are repeated outside of the layer, where Keras does not cast.
    layers_of_all = keras_private.all_layers(model.model)
    policies = [layer.dtype_policy for layer in layers_of_all]
    return (
        calls.keeps_rows_apart(model.model)
        and not scale.is_active
        # All shards would have to share one mask.
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
        dense: List of the `DenseCall`s, whose variables `gradient` leaves out.
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
            # The Gram matrix needs the gradients themselves.
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
            # A non-finite shard must not stay in the loss trackers of outputs.
            with state.finite_only(moving):
                losses.append(gradients.data_loss_of(model, part, y_pred))
        return losses

    def _cut(self, batch):
        """Reshapes one batch to `(num_shards, shard_size, ...)`."""
        return tf.reshape(batch, (self._count, -1, *batch.shape[1:]))

    def gradient(self, index):
        """Returns loss and gradient of one shard.

        Args:
            index: Integer or integer scalar tensor. If `dense` has all layers,
                it may be a slice of several shards.

        Returns:
            Tuple of the scalar loss, a list with the gradient of each
            trainable variable, float32, and an empty dict. The gradient is
            `None` for variables that the loss does not reach, and for those in
            `dense`.
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
    """The call of a dense layer that is called only once.

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
        """Builds one from a recorded `Call` and deltas `(num_shards, ...)`."""
        (inputs,) = filter(tf.is_tensor, keras.tree.flatten(call.inputs))
        count = deltas.shape[0]
        return cls(
            call.layer, *(_by_shard(rows, count) for rows in (inputs, deltas))
        )

    @staticmethod
    def is_worth_it(call, deltas):
        """Returns whether a call can be a `DenseCall`, and is cheaper as one.

        Args:
            call: A `Call`, the only one of its layer.
            deltas: Its deltas, `(num_shards, ...)`.
        """
        rows = deltas.shape[1:-1]
        if type(call.layer) is not layers.Dense or None in rows:
            return False
        # Kernel and bias are not frozen, and there are no LoRA variables.
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
        # |a^T d|^2 = sum_ij (a_i . a_j) (d_i . d_j). A bias acts as an input of
        # 1.
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
            weights: Tensor of shape `(shards,)`. A weight of 0 leaves out a
                shard, even a non-finite one.
            shards: Slice, the shards that the weights belong to.

        Returns:
            List of the tensors for the kernel and, if there is one, the bias.
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
