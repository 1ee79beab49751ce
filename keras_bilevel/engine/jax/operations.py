"""The operations of a function, as JAX has traced them, run in another way."""

import jax
from jax.extend import core


class Traced:
    """A function whose operations are known.

    Args:
        function: Function of a structure of tensors to one of tensors.
        *arguments: What it is traced with.
    """

    def __init__(self, function, *arguments):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self._traced = traced
        self._structure = jax.tree.structure(shapes)

    def run(self, arguments, apply):
        """Returns the results of the function.

        Args:
            arguments: List, in place of the tensors in its arguments.
            apply: Function `(operation, values) -> list of results`, which runs
                an `Operation`. The values are arguments, what it has returned
                for other operations, or constants.
        """
        traced = self._traced
        found = _evaluate(traced.jaxpr, traced.consts, arguments, apply)
        return jax.tree.unflatten(self._structure, found)


def _evaluate(jaxpr, constants, arguments, apply):
    values = dict(zip(jaxpr.constvars, constants))
    values.update(zip(jaxpr.invars, arguments))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"]
            found = _evaluate(inner.jaxpr, inner.consts, inputs, apply)
        else:
            found = apply(Operation(jaxpr, equation), inputs)
        values.update(zip(equation.outvars, found))
    return [read(atom) for atom in jaxpr.outvars]


class Operation:
    """One operation of a function.

    Attributes:
        name: String.
        options: Dict, what it has besides its inputs.
        inputs: List with the shape and type of each input.
        results: List with the shape and type of each result.
    """

    def __init__(self, jaxpr, equation):
        self._jaxpr, self._equation = jaxpr, equation
        self.name = equation.primitive.name
        self.options = equation.params
        self.inputs = [atom.aval for atom in equation.invars]
        self.results = [atom.aval for atom in equation.outvars]

    def run(self, values):
        """Returns the list of results for values, as JAX does."""
        inputs = {
            atom: value
            for atom, value in zip(self._equation.invars, values)
            if not isinstance(atom, core.Literal)
        }
        alone = self._jaxpr.replace(
            constvars=[],
            invars=list(inputs),
            outvars=self._equation.outvars,
            eqns=[self._equation],
            effects=self._equation.effects,
        )
        run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
        return run(*inputs.values())
