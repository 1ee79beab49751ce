"""The gradients of kernels, one for each shard, all at once.

A kernel that multiplies rows `a` has the gradient `a^T d`, with the derivatives
`d` of the loss in the products. Where rows are few, these `Factors` are smaller
than the gradient. Norms, inner products and weighted sums follow from them, so
that the gradient of a single shard is never held.

`jax.vmap` of the gradient of a convolution's kernel would be a grouped
convolution, see `convolutions`.
"""

import collections
import dataclasses
import math

import jax
from jax import numpy as jnp

from keras_bilevel.engine.jax import convolutions
from keras_bilevel.engine.jax import operations

# The precision of products of gradients. Accelerators round their factors by
# default, which would move the weights of shards.
EXACT = "highest"


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Whole:
    """The gradient of a variable.

    Attributes:
        tensor: Float32 tensor, `(*shape)` for one shard and
            `(num_shards, *shape)` for all.
    """

    tensor: jax.Array

    def squared_norm(self):
        """Returns the squared norm for one shard."""
        return jnp.vdot(self.tensor, self.tensor, precision=EXACT)

    def alignments(self, upper):
        """Returns the inner products with the sum of some, `(num_shards,)`.

        Args:
            upper: The gradients of some shards, as this one.
        """
        direction = jnp.sum(upper._rows(), axis=0)
        return jnp.matmul(self._rows(), direction, precision=EXACT)

    def products(self):
        """Returns the inner products among shards, a square matrix."""
        rows = self._rows()
        return jnp.matmul(rows, rows.T, precision=EXACT)

    def weighted_sum(self, weights):
        """Returns the weighted sum over shards."""
        return jnp.tensordot(weights, self.tensor, 1, precision=EXACT)

    def _rows(self):
        return self.tensor.reshape((len(self.tensor), -1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Factors:
    """The gradient of a kernel, as a product.

    Attributes:
        inputs: Float32 tensor of shape `(rows, inputs)` for one shard and
            `(num_shards, rows, inputs)` for all.
        deltas: Float32 tensor of shape `(rows, units)` or
            `(num_shards, rows, units)`.
        shape: The shape of the kernel.
    """

    inputs: jax.Array
    deltas: jax.Array
    shape: tuple = dataclasses.field(metadata={"static": True})

    def squared_norm(self):
        """As for `Whole`."""
        # |a^T d|^2 = sum_ij (a_i . a_j) (d_i . d_j).
        return jnp.sum(_products(self.inputs) * _products(self.deltas))

    def alignments(self, upper):
        """As for `Whole`."""
        inputs, deltas = (
            t.reshape((-1, t.shape[-1])) for t in (upper.inputs, upper.deltas)
        )
        if inputs.size + deltas.size > math.prod(self.shape):
            direction = jnp.matmul(inputs.T, deltas, precision=EXACT)
            moved = jnp.matmul(self.inputs, direction, precision=EXACT)
            return jnp.sum(self.deltas * moved, axis=(1, 2))
        # <a^T d, b^T e> = sum_ij (a_i . b_j) (d_i . e_j).
        near = jnp.matmul(self.inputs, inputs.T, precision=EXACT)
        alike = jnp.matmul(self.deltas, deltas.T, precision=EXACT)
        return jnp.sum(near * alike, axis=(1, 2))

    def products(self):
        """As for `Whole`."""
        count, rows = self.inputs.shape[:2]
        inputs, deltas = (
            _products(t.reshape((count * rows, -1)))
            for t in (self.inputs, self.deltas)
        )
        of_rows = (inputs * deltas).reshape((count, rows, count, rows))
        return jnp.sum(of_rows, axis=(1, 3))

    def weighted_sum(self, weights):
        """As for `Whole`."""
        weights = weights[:, None, None]
        return jnp.tensordot(
            self.inputs, self.deltas * weights, ((0, 1), (0, 1))
        ).reshape(self.shape)


def _products(rows):
    """Returns the inner products among rows."""
    return jnp.matmul(rows, rows.mT, precision=EXACT)


def differentiate(function, point, scale):
    """Differentiates the loss of a shard that is one of many side by side.

    Args:
        function: Function of a list of tensors to a scalar and anything else.
        point: List of tensors, the values of variables.
        scale: The `LossScale` of the scalar.

    Returns:
        Tuple of a list with a `Whole` or `Factors` for each variable, without
        the scale, and of anything else.
    """
    traced = operations.Traced(function, point)
    taps = {
        place: jnp.zeros(product.shape, product.dtype)
        for place, product in _smaller_products(traced, point).items()
    }
    others = [None if place in taps else v for place, v in enumerate(point)]

    def run(others, taps):
        inputs = {}
        values = [
            _Kernel(place, value) if place in taps else other
            for place, (value, other) in enumerate(zip(point, others))
        ]
        found, rest = traced.run(values, _tapped(taps, inputs))
        return found, (rest, inputs)

    gradient, (rest, inputs) = jax.grad(run, (0, 1), has_aux=True)(others, taps)
    whole, deltas = gradient
    return [
        Factors(
            inputs[place],
            scale.down(deltas[place]).reshape((len(inputs[place]), -1)),
            value.shape,
        )
        if place in taps
        else Whole(scale.down(whole[place]))
        for place, value in enumerate(point)
    ], rest


@dataclasses.dataclass
class _Kernel:
    """A variable, as is or of another type, among the values of operations."""

    place: int
    value: jax.Array | None = None


def _smaller_products(traced, point):
    """Returns the results of the products that become `Factors`.

    They are those of a variable that nothing else uses.

    Args:
        traced: A `Traced` function of `point`.
        point: List of tensors.

    Returns:
        Dict from places in the list to shapes and types.
    """
    uses = collections.defaultdict(list)

    def note(operation, values):
        if _is_conversion(operation):
            return values
        for position, value in enumerate(values):
            if isinstance(value, _Kernel):
                uses[value.place].append((operation, position))
        return [None] * len(operation.results)

    results = traced.run([_Kernel(place) for place in range(len(point))], note)
    for value in jax.tree.leaves(results):
        if isinstance(value, _Kernel):
            uses[value.place].append((None, None))
    return {
        place: found[0][0].results[0]
        for place, found in uses.items()
        if len(found) == 1 and _has_smaller_factors(*found[0])
    }


def _has_smaller_factors(operation, position):
    """Returns whether it is rows times a kernel, and they are few."""
    if position != 1 or operation.name != "dot_general":
        return False
    inputs, kernel = operation.inputs
    axes, batch_axes = operation.options["dimension_numbers"]
    count = len(axes[0])
    last = tuple(range(inputs.ndim - count, inputs.ndim))
    if batch_axes != ((), ()) or axes != (last, tuple(range(count))):
        return False
    size = math.prod(kernel.shape[:count])
    rows, units = inputs.size // max(size, 1), kernel.size // max(size, 1)
    return rows * (size + units) <= kernel.size


def _is_conversion(operation):
    return operation.name == "convert_element_type"


def _tapped(taps, inputs):
    """Returns how to run operations, with something added to products.

    Args:
        taps: Dict from places of kernels to what is added.
        inputs: Dict that takes what these kernels are multiplied by.
    """

    def apply(operation, values):
        kernels = [v for v in values if isinstance(v, _Kernel)]
        plain = [v.value if isinstance(v, _Kernel) else v for v in values]
        if convolutions.is_known(operation):
            return [convolutions.by_taps(operation.options)(*plain)]
        found = operation.run(plain)
        if not kernels:
            return found
        (place,) = (kernel.place for kernel in kernels)
        if _is_conversion(operation):
            return [_Kernel(place, found[0])]
        axes, _ = operation.options["dimension_numbers"]
        size = math.prod(plain[1].shape[: len(axes[0])])
        inputs[place] = plain[0].reshape((-1, size)).astype("float32")
        return [found[0] + taps[place]]

    return apply
