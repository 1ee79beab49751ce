"""The gradients of a convolution's kernel, one for each shard, at once.

`jax.vmap` makes a grouped convolution of them, which takes several times as
long as one gradient of all examples. As a matrix product for each tap of the
kernel, they take about as long.
"""

import itertools
import math

import jax
from jax import numpy as jnp

# A 7x7 kernel. Beyond it, so many products take longer.
_MOST_TAPS = 49


def is_known(operation):
    """Returns whether it is a convolution of few taps, in Keras' order."""
    if operation.name != "conv_general_dilated":
        return False
    options = operation.options
    rank = len(options["window_strides"])
    axes = tuple(range(rank))
    last = (0, rank + 1, *(axis + 1 for axis in axes))
    order = options["dimension_numbers"]
    return (
        (order.lhs_spec, order.out_spec) == (last, last)
        and order.rhs_spec == (rank + 1, rank, *axes)
        and options["batch_group_count"] == 1
        and set(options["lhs_dilation"]) == {1}
        and math.prod(operation.inputs[1].shape[:-2]) <= _MOST_TAPS
    )


def by_taps(options):
    """Returns a convolution with another gradient of its kernel.

    Args:
        options: Dict, those of JAX' convolution.

    Returns:
        Function of a batch `(batch, *size, channels)` and a kernel
        `(*taps, channels, filters)`.
    """

    @jax.custom_vjp
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated_p.bind(x, kernel, **options)

    def forward(x, kernel):
        return convolve(x, kernel), (x, kernel)

    def backward(seen, gradient):
        x, kernel = seen
        _, of_x = jax.vjp(
            lambda x: jax.lax.conv_general_dilated_p.bind(x, kernel, **options),
            x,
        )
        return *of_x(gradient), _of_kernel(x, kernel, gradient, options)

    convolve.defvjp(forward, backward)
    return convolve


def _of_kernel(x, kernel, gradient, options):
    """Returns the gradient of a kernel: at each tap, x times the gradient.

    Args:
        x: Tensor of shape `(batch, *size, channels)`.
        kernel: Tensor of shape `(*taps, channels, filters)`.
        gradient: Tensor of shape `(batch, *new_size, filters)`.
        options: Dict, those of the convolution.
    """
    taps = kernel.shape[:-2]
    strides, dilation = options["window_strides"], options["rhs_dilation"]
    # Negative padding cuts off.
    edges = [(low, high, 0) for low, high in options["padding"]]
    none = (0, 0, 0)
    x = jax.lax.pad(x, jnp.zeros([], x.dtype), [none, *edges, none])
    groups = options["feature_group_count"]
    gradient = _in_groups(gradient, groups)
    found = []
    for tap in itertools.product(*map(range, taps)):
        begin = [place * step for place, step in zip(tap, dilation)]
        seen = x[
            (
                slice(None),
                *(
                    slice(first, first + (count - 1) * stride + 1, stride)
                    for first, count, stride in zip(
                        begin, gradient.shape[1:], strides
                    )
                ),
            )
        ]
        seen = _in_groups(seen, groups)
        found.append(_products(seen, gradient, options["precision"]))
    return jnp.stack(found).reshape(kernel.shape).astype(kernel.dtype)


def _in_groups(tensor, groups):
    """Splits the channels of a tensor into groups, `(..., groups, size)`."""
    return tensor.reshape((*tensor.shape[:-1], groups, -1))


def _products(x, gradient, precision):
    """Returns inner products over all axes but the channels.

    Args:
        x: Tensor of shape `(..., groups, channels)`, those of a group.
        gradient: Tensor of shape `(..., groups, filters)`.
        precision: That of the convolution.

    Returns:
        Float32 tensor of shape `(channels, groups, filters)`.
    """
    axes = tuple(range(x.ndim - 2))
    if x.shape[-2] > x.shape[-1] == 1:
        # A depthwise convolution: many products of single columns.
        return jnp.sum(x.astype("float32") * gradient, axes)[None]
    group = (x.ndim - 2,)
    found = jax.lax.dot_general(
        x,
        gradient,
        ((axes, axes), (group, group)),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return jnp.moveaxis(found, 0, 1)
