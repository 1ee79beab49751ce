"""Gradients of functions of variables, and the optimizer's step."""

import contextlib

import jax
from jax import numpy as jnp

from keras_bilevel.data.batches import get_masks
from keras_bilevel.data.batches import set_masks
from keras_bilevel.engine.jax import scope


def differentiate(function, variables):
    """Differentiates what a function computes, in variables.

    What the function updates is kept.

    Args:
        function: Callable of `pause` that returns a scalar and anything else.
            `pause()` is a context of which nothing is differentiated.
        variables: List of `keras.Variable`.

    Returns:
        Tuple of the scalar, of anything else, and of a list with the gradient
        of each variable.
    """
    run = Traced(lambda: function(contextlib.nullcontext), variables)
    found, gradient = jax.value_and_grad(run, has_aux=True)(run.point())
    value, (found, changes) = found
    run.keep(changes)
    return value, set_masks(*found), gradient


class Traced:
    """A function without arguments as one of the values of variables.

    Args:
        function: Callable that returns a value and anything else. It runs in a
            `Scope` of its own.
        variables: List of `keras.Variable`.
        values: What that scope begins with. Defaults to `None`: the values of
            the scope that is open.
    """

    def __init__(self, function, variables, values=None):
        self._function = function
        self._variables = variables
        self._values = scope.values() if values is None else values
        self.scope = None

    def point(self):
        """Returns the values of the variables, a list."""
        return [variable.value for variable in self._variables]

    def __call__(self, point):
        """Returns the value, and a tuple of anything else and changes."""
        ids = map(id, self._variables)
        with scope.Scope({**self._values, **dict(zip(ids, point))}) as inner:
            value, found = self._function()
        self.scope = inner
        # Keras attaches masks to tensors, which a transformation would lose.
        return value, ((found, get_masks(found)), inner.changes())

    def keep(self, changes):
        """Keeps the changes that a call has returned."""
        self.scope.state_mapping.update(changes)
        scope.keep(self.scope)


def slopes(function, weights):
    """Returns the derivative of a function of weights, `None` if it has none.

    Args:
        function: Callable of a tensor of the shape of `weights` to a scalar.
        weights: Tensor.
    """

    def run(weights):
        with discarding_updates():
            return function(weights)

    return jax.grad(run)(weights) if _depends(run, weights) else None


def _depends(function, weights):
    """Returns whether the result of a function depends on its argument.

    The derivative would be 0 if not.
    """
    traced = jax.make_jaxpr(function)(weights).jaxpr
    reached = set(traced.invars)
    for equation in traced.eqns:
        if any(_is_in(variable, reached) for variable in equation.invars):
            reached.update(equation.outvars)
    return any(_is_in(variable, reached) for variable in traced.outvars)


def _is_in(variable, variables):
    # Literals, which have values, cannot be hashed.
    return not hasattr(variable, "val") and variable in variables


def is_forward(function, argument):
    """Returns whether a function can be differentiated in forward mode.

    Not if an operation has a derivative of its own, backward only. JAX says so
    only when it compiles.
    """
    return not _has_own_backward(jax.make_jaxpr(function)(argument).jaxpr)


def _has_own_backward(traced):
    for equation in traced.eqns:
        if equation.primitive.name.startswith("custom_vjp"):
            return True
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=_is_traced
        ):
            # A closed one has the other inside.
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns") and _has_own_backward(inner):
                return True
    return False


def _is_traced(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def discarding_updates():
    """Returns a context that a pass runs in whose updates are taken back."""
    return scope.copied()


def inner_product(a, b):
    """Returns the inner product of two tensors of one shape, float32."""
    return jnp.vdot(
        a.astype("float32"), b.astype("float32"), precision="highest"
    )


def dense(gradient):
    """Returns a gradient as a float32 tensor, `None` for `None`."""
    return None if gradient is None else gradient.astype("float32")


def kept_if(healthy, gradient, nothing):
    """Returns a gradient, or one number in place of all its entries.

    Args:
        healthy: Boolean scalar, whether the gradient is kept.
        gradient: List of tensors and `None`.
        nothing: Float, the number.
    """
    return [
        None if g is None else jnp.where(healthy, g, nothing) for g in gradient
    ]


def apply(model, step, scale):
    """Applies the optimizer to the gradients of a step.

    Args:
        model: The `keras.Model` that is trained, its optimizer built.
        step: A `Step`.
        scale: The `LossScale`.
    """
    optimizer = model.optimizer
    gradients = dict(zip(map(id, step.variables), step.all_gradients()))
    variables = model.trainable_variables
    updated = optimizer.stateless_apply(
        [variable.value for variable in optimizer.variables],
        [scale.up(gradients[id(variable)]) for variable in variables],
        [variable.value for variable in variables],
    )
    for group, values in zip((variables, optimizer.variables), updated):
        for variable, value in zip(group, values):
            variable.assign(value)
