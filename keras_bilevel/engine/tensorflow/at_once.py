"""Gradients of all shards at once, without a loop over shards.

The gradient of a layer that multiplies by its kernel is `a^T d` on a shard,
with the rows `a` of its inputs and the deltas `d` of its outputs. Norms and
inner products follow from these `Factors`. So does the weighted sum over all
shards, by one matrix product. No gradient of a single shard is held in memory.

Other gradients are small, and make a `Stack` with a row for each shard.
"""

import dataclasses
import math

import keras
import tensorflow as tf
from keras import layers


@dataclasses.dataclass(frozen=True)
class Factors:
    """The gradients of a kernel and its bias, as products.

    Attributes:
        variables: List of the kernel and, if there is one, the bias.
        inputs: Float32 tensor of shape `(num_shards, rows, inputs)`.
        deltas: Float32 tensor of shape `(num_shards, rows, units)`, the
            derivatives of each shard's loss in the outputs before activation.
    """

    variables: list
    inputs: tf.Tensor
    deltas: tf.Tensor

    @classmethod
    def of(cls, call, deltas):
        """Makes them from a call, `None` where they do not fit.

        Args:
            call: A `Call`.
            deltas: Its deltas, `(num_shards, ...)`.
        """
        layer = call.layer
        if type(layer) not in _FACTORED:
            return None
        # Kernel and bias are not frozen, and there are no LoRA variables.
        if len(call.variables) != 1 + layer.use_bias:
            return None
        (inputs,) = filter(tf.is_tensor, keras.tree.flatten(call.inputs))
        inputs = _FACTORED[type(layer)](layer, inputs)
        if inputs is None:
            return None
        count = deltas.shape[0]
        bias = [layer.bias] if layer.use_bias else []
        return cls(
            [layer.kernel, *bias],
            *(_by_shard(rows, count) for rows in (inputs, deltas)),
        )

    def unscaled(self, scale):
        """Returns them without the loss scale of their deltas."""
        return dataclasses.replace(self, deltas=scale.down(self.deltas))

    def are_smaller(self, shards=1):
        """Returns whether those of some shards are smaller than a gradient."""
        rows, inputs = self.inputs.shape[1:]
        units = self.deltas.shape[-1]
        if rows is None:
            return False
        return shards * rows * (inputs + units) <= inputs * units

    def rows(self):
        """Returns the gradient of each variable, `(num_shards, size)`."""
        kernel = tf.matmul(self.inputs, self.deltas, transpose_a=True)
        kernel = tf.reshape(kernel, (kernel.shape[0], -1))
        bias = [tf.reduce_sum(self.deltas, axis=1)]
        return [kernel, *bias[: len(self.variables) - 1]]

    def norms(self):
        """Returns the squared norms of the gradients, `(num_shards,)`."""
        near = tf.matmul(self.inputs, self.inputs, transpose_b=True)
        alike = tf.matmul(self.deltas, self.deltas, transpose_b=True)
        return self._summed(near, alike)

    def _summed(self, near, alike):
        # <a^T d, b^T e> = sum_ij (a_i . b_j) (d_i . e_j). A bias acts as an
        # input of 1.
        if len(self.variables) > 1:
            near += 1.0
        return tf.reduce_sum(near * alike, axis=(1, 2))

    def judged_by(self, weights):
        """Returns the inner products with a weighted sum, `(num_shards,)`.

        Args:
            weights: Tensor of shape `(shards,)`, those of the first shards. As
                for `weighted_sum`.
        """
        first = slice(weights.shape[0])
        if not self.are_smaller(weights.shape[0]):
            return self.alignments(self.weighted_sum(weights, first))
        return self.products(
            Factors(self.variables, *self._weighted(weights, first))
        )

    def products(self, other):
        """Returns the inner products with one other gradient, `(num_shards,)`.

        Args:
            other: `Factors` of the same variables, those of all of its shards
                summed.
        """
        return self._summed(
            tf.tensordot(self.inputs, _as_matrix(other.inputs), ([2], [1])),
            tf.tensordot(self.deltas, _as_matrix(other.deltas), ([2], [1])),
        )

    def alignments(self, direction):
        """Returns the inner products with a direction, `(num_shards,)`.

        Args:
            direction: List of tensors, as `weighted_sum` returns.
        """
        kernel, *bias = direction
        tangents = tf.tensordot(self.inputs, _as_matrix(kernel), 1)
        if bias:
            tangents += bias[0]
        return tf.reduce_sum(self.deltas * tangents, axis=(1, 2))

    def weighted_sum(self, weights, shards):
        """Returns the weighted sum of the gradients of some shards.

        Args:
            weights: Tensor of shape `(shards,)`. A weight of 0 leaves out a
                shard, even a non-finite one.
            shards: Slice, the shards that the weights belong to.

        Returns:
            List of a tensor for each of the variables.
        """
        inputs, deltas = self._weighted(weights, shards)
        kernel, *bias = self.variables
        product = tf.matmul(inputs, deltas, transpose_a=True)
        sums = [tf.reduce_sum(deltas, axis=0) for _ in bias]
        return [tf.reshape(product, kernel.shape), *sums]

    def _weighted(self, weights, shards):
        """Returns the factors of a weighted sum, two matrices."""
        weights = weights[:, None, None]
        inputs, deltas = self.inputs[shards], self.deltas[shards]

        def without_dropped():
            return (
                tf.where(weights != 0.0, inputs, 0.0),
                tf.math.multiply_no_nan(deltas, weights),
            )

        found = shortcut(
            tf.reduce_all(weights != 0.0),
            lambda: (inputs, deltas * weights),
            without_dropped,
        )
        return tuple(map(_as_matrix, found))


@dataclasses.dataclass(frozen=True)
class Stack:
    """Gradients of all shards in one matrix.

    Attributes:
        variables: List of variables.
        rows: Float32 tensor of shape `(num_shards, size)`, the gradients of all
            variables in a row.
    """

    variables: list
    rows: tf.Tensor

    def norms(self):
        """As for `Factors`."""
        return tf.reduce_sum(tf.square(self.rows), axis=1)

    def judged_by(self, weights):
        """As for `Factors`."""
        first = slice(weights.shape[0])
        return self.alignments(self.weighted_sum(weights, first))

    def alignments(self, direction):
        """As for `Factors`."""
        flat = [tf.reshape(part, (-1,)) for part in direction]
        return tf.linalg.matvec(self.rows, tf.concat(flat, axis=0))

    def weighted_sum(self, weights, shards):
        """As for `Factors`."""
        rows = tf.where(weights[:, None] != 0.0, self.rows[shards], 0.0)
        total = tf.linalg.matvec(rows, weights, transpose_a=True)
        shapes = [variable.shape for variable in self.variables]
        parts = tf.split(total, [math.prod(shape) for shape in shapes])
        return [tf.reshape(*pair) for pair in zip(parts, shapes)]


def prefers_loops():
    """Returns whether a kernel for each shard is cheaper than one for all.

    It is on CPUs, where shards fit into caches and small kernels are cheap, and
    in eager steps, which would be traced for one for all.
    """
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    return kinds == {"CPU"} or tf.executing_eagerly()


def shortcut(condition, short, exact):
    """Returns what one of two functions returns.

    Args:
        condition: Boolean scalar, whether `short` may be taken.
        short: Function that returns a sequence of tensors.
        exact: Function that returns tensors of the same shapes, which are right
            in any case.
    """
    # On a GPU the step would wait until the condition is known.
    if not prefers_loops():
        return exact()
    return tf.cond(condition, short, exact)


def rows_of(call, cut, deltas):
    """Returns the gradients of a call for all shards.

    Args:
        call: A `Call`.
        cut: Function that reshapes a batch to `(num_shards, shard_size, ...)`.
        deltas: The deltas of the call, `(num_shards, ...)`.

    Returns:
        List of a float32 tensor of shape `(num_shards, size)` for each of the
        variables of the call.
    """
    factors = Factors.of(call, deltas)
    if factors is not None:
        found = dict(zip(map(id, factors.variables), factors.rows()))
        return [found[id(variable)] for variable in call.variables]
    count = deltas.shape[0]
    gradients = tf.vectorized_map(
        lambda index: call.gradient_of_rows(
            lambda tensor: tf.gather(cut(tensor), index),
            tf.gather(deltas, index),
        ),
        tf.range(count),
    )
    return [tf.reshape(gradient, (count, -1)) for gradient in gradients]


def _patches(layer, images):
    """Returns what each product of a convolution multiplies by its kernel."""
    if layer.groups > 1 or layer.data_format == "channels_first":
        return None
    if layer.kernel_size == layer.strides == (1, 1):
        return images
    # On CPUs they are dear, and so is their memory.
    if prefers_loops():
        return None
    return tf.image.extract_patches(
        images,
        (1, *layer.kernel_size, 1),
        (1, *layer.strides, 1),
        (1, *layer.dilation_rate, 1),
        layer.padding.upper(),
    )


# What the rows of a layer's inputs are that its kernel multiplies.
_FACTORED = {
    layers.Dense: lambda layer, inputs: inputs,
    layers.Conv2D: _patches,
}


def _by_shard(rows, num_shards):
    """Reshapes to `(num_shards, rows, size)`, float32."""
    return tf.cast(
        tf.reshape(rows, (num_shards, -1, rows.shape[-1])), tf.float32
    )


def _as_matrix(rows):
    return tf.reshape(rows, (-1, rows.shape[-1]))
