"""What dense layers add to the shards' statistics, without their gradients.

The gradient of a dense layer on a shard is `a^T d`, of its inputs `a` and the
deltas `d` of its outputs. Norms and inner products follow from the factors,
and so does a weighted sum over all shards: one product in place of one for
each shard, and no gradient of a single shard in memory.
"""

import dataclasses
import math

import keras
import tensorflow as tf
from keras import layers


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
