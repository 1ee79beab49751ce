"""The gradients of a convolution's kernel, one for each shard, at once.

`jax.vmap` makes a grouped convolution of them, which takes several times as
long as one gradient of all examples. As a matrix product for each tap of the
kernel, they take about as long.
"""

import itertools
import math

import jax
from jax import numpy as jnp
from jax.extend import core

# A 7x7 kernel. Beyond it, so many products take longer.
_MOST_TAPS = 49


def by_taps(function):
    """Returns a function with other gradients of kernels, of the same values.

    Args:
        function: Function of a structure of tensors to one of tensors.
    """

    def call(*arguments):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _evaluate(
            traced.jaxpr, traced.consts, jax.tree.leaves(arguments)
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return call


def _evaluate(jaxpr, constants, arguments):
    """Runs a function that JAX has traced, with our convolutions."""
    values = dict(zip(jaxpr.constvars, constants))
    values.update(zip(jaxpr.invars, arguments))

    def read(atom):
        return atom.val if _is_literal(atom) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"]
            found = _evaluate(inner.jaxpr, inner.consts, inputs)
        elif _is_known(equation):
            found = [_convolution(equation.params)(*inputs)]
        else:
            found = _as_before(jaxpr, equation, values)
        values.update(zip(equation.outvars, found))
    return [read(atom) for atom in jaxpr.outvars]


def _as_before(jaxpr, equation, values):
    """Runs one operation as JAX does."""
    inputs = {a: None for a in equation.invars if not _is_literal(a)}
    alone = jaxpr.replace(
        constvars=[],
        invars=list(inputs),
        outvars=equation.outvars,
        eqns=[equation],
        effects=equation.effects,
    )
    run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
    return run(*(values[atom] for atom in inputs))


def _is_literal(atom):
    return isinstance(atom, core.Literal)


def _is_known(equation):
    """Returns whether it is a convolution of Keras' order of axes."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    options = equation.params
    rank = len(options["window_strides"])
    axes = tuple(range(rank))
    last = (0, rank + 1, *(axis + 1 for axis in axes))
    order = options["dimension_numbers"]
    return (
        (order.lhs_spec, order.out_spec) == (last, last)
        and order.rhs_spec == (rank + 1, rank, *axes)
        and options["feature_group_count"] == 1
        and options["batch_group_count"] == 1
        and set(options["lhs_dilation"]) == {1}
        and math.prod(equation.invars[1].aval.shape[:-2]) <= _MOST_TAPS
    )


def _convolution(options):
    """Returns a convolution whose kernel's gradient is one of `_of_kernel`."""

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
    axes = list(range(gradient.ndim - 1))
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
        found.append(
            jax.lax.dot_general(
                seen,
                gradient,
                ((axes, axes), ((), ())),
                precision=options["precision"],
                preferred_element_type=jnp.float32,
            )
        )
    return jnp.stack(found).reshape(kernel.shape).astype(kernel.dtype)
