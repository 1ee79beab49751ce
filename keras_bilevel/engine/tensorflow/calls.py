"""Records layer calls to derive per-row gradients and JVPs.

Where layers keep examples apart, one backward pass gives the deltas of all
examples: the derivatives of their losses with respect to the output of each
layer call. The inputs and deltas of a call determine the gradient of the
layer's variables, for any rows and any weights, and inner products with it.

Layers are called through an attribute `call` of their own for that, up to
their activation. A functional model that also returns the inputs and outputs
of its layers gives the same numbers, but has to compute each activation again
for each shard.
"""

import collections
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine.tensorflow import gradients
from keras_bilevel.engine.tensorflow import known_layers


@dataclasses.dataclass(frozen=True)
class Call:
    """A recorded call of a layer, without its activation.

    Attributes:
        layer: The layer.
        function: Callable, the layer without its activation:
            `output = function(*args, **kwargs)`.
        variables: List of the layer's own trainable variables.
        inputs: Tuple of `args` and `kwargs`.
        output: Tensor of shape `(batch_size, ...)`.
        tape: Persistent `tf.GradientTape` that has recorded the call.
    """

    layer: keras.Layer
    function: Callable
    variables: list
    inputs: tuple
    output: tf.Tensor
    tape: tf.GradientTape

    def gradient(self, deltas):
        """Returns the gradient of each of the variables, float32.

        Args:
            deltas: Tensor of the shape of the output, the derivatives of the
                loss with respect to it.
        """
        return _gradient(self.tape, self.output, self.variables, deltas)

    def gradient_of_rows(self, cut, deltas):
        """Returns the part of the gradient that comes from some rows.

        Args:
            cut: Function that slices these rows out of a tensor.
            deltas: Tensor, the deltas of these rows.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self.variables])
            args, kwargs = keras.tree.map_structure(
                lambda t: cut(t) if tf.is_tensor(t) else t, self.inputs
            )
            output = self.function(*args, **kwargs)
        return _gradient(tape, output, self.variables, deltas)

    def tangent(self, directions):
        """Returns the Jacobian-vector product J u of the output.

        A layer that is linear in its variables gives J u if it is called with u
        in their place. Of any other, v^T J is linear in the cotangent v. So its
        derivative, multiplied by u from the left, is J u. In a graph, only J u
        is executed. `tf.autodiff.ForwardAccumulator` would also compute the
        product with the tangent of the inputs, which is 0.

        Args:
            directions: Dict of variable id to a tensor of the variable's shape,
                its part of u.

        Returns:
            Tensor of the shape of the output, or `None` if no variable of the
            layer has a direction.
        """
        along = [v for v in self.variables if id(v) in directions]
        if not along:
            return None
        if known_layers.is_linear(self.layer):
            return self._with_directions(directions)
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            cotangent = tf.zeros_like(self.output)
            outer.watch(cotangent)
            gradient = _gradient(self.tape, self.output, along, cotangent)
        return outer.gradient(
            gradient,
            cotangent,
            output_gradients=[directions[id(v)] for v in along],
        )

    def _with_directions(self, directions):
        """Calls the layer with a direction for each variable, or 0."""
        pairs = [
            (v, directions[id(v)] if id(v) in directions else tf.zeros(v.shape))
            for v in self.layer.weights
        ]
        args, kwargs = self.inputs
        with keras.StatelessScope(pairs):
            return self.function(*args, **kwargs)


def summed(parts, variables):
    """Sums the gradients of calls; a layer may be called several times.

    Args:
        parts: Iterable of tuples of a `Call` and what its `gradient` returned.
        variables: List of the trainable variables.

    Returns:
        List with the gradient of each variable, `None` if no call has the
        variable.
    """
    sums = {}
    for call, gradient in parts:
        for variable, part in zip(call.variables, gradient):
            sums[id(variable)] = sums.get(id(variable), 0.0) + part
    return [sums.get(id(variable)) for variable in variables]


@contextlib.contextmanager
def recorded(network, variables, norms=None):
    """Records the layer calls of a network within the context.

    Args:
        network: `keras.Model` of `known_layers`.
        variables: List of the trainable variables.
        norms: `ShardNorms` that normalise in place of `BatchNormalization`,
            which then has no `Call`, or `None`.

    Yields:
        A list. Each call of a layer that owns some of the variables appends a
        `Call`.
    """
    trainable = {id(variable) for variable in variables}
    calls, functions = [], {}
    for layer in keras_private.all_layers(network):
        own = keras_private.own_trainable_variables(layer)
        own = [v for v in own if id(v) in trainable]
        normalize = None if norms is None else norms.call_of(layer)
        if normalize is not None:
            functions[layer] = normalize
        elif own:
            functions[layer] = _recorder(calls, layer, own)
    with replaced(functions):
        yield calls


class _Thread(threading.local):
    def __init__(self):
        self.functions = {}


# Replicas that wait for one another take turns within a pass, each in a thread
# of its own.
_THREAD = _Thread()
_USERS = collections.Counter()


@contextlib.contextmanager
def replaced(functions):
    """Replaces the `call` of layers, in this thread alone.

    Args:
        functions: Dict from a layer to a function.
    """
    _THREAD.functions.update(functions)
    _USERS.update(functions.keys())
    for layer in functions:
        # Bypasses the attribute tracking of Keras.
        object.__setattr__(layer, "call", functools.partial(_call, layer))
    try:
        yield
    finally:
        for layer in functions:
            del _THREAD.functions[layer]
            _USERS[layer] -= 1
            if not _USERS[layer]:
                del _USERS[layer]
                object.__delattr__(layer, "call")


def _call(layer, *args, **kwargs):
    function = _THREAD.functions.get(layer, type(layer).call.__get__(layer))
    return function(*args, **kwargs)


def _recorder(calls, layer, variables):
    """Returns a function that calls a layer, and records that."""
    # Read here, because mixed precision casts the values inside of the layer.
    values = [v.value for v in variables]
    function = functools.partial(_without_activation, layer)

    def record(*args, **kwargs):
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as tape:
            tape.watch(values)
            output = function(*args, **kwargs)
        inputs = args, kwargs
        calls.append(Call(layer, function, variables, inputs, output, tape))
        activation = getattr(layer, "activation", None)
        return output if activation is None else activation(output)

    return record


def _without_activation(layer, *args, **kwargs):
    """Calls a layer without its activation, which comes last in all of them."""
    with keras_private.autocast(layer):
        if not hasattr(layer, "activation"):
            return type(layer).call(layer, *args, **kwargs)
        activation = layer.activation
        object.__setattr__(layer, "activation", None)
        try:
            return type(layer).call(layer, *args, **kwargs)
        finally:
            object.__setattr__(layer, "activation", activation)


def _gradient(tape, output, variables, cotangent):
    gradient = tape.gradient(
        output,
        [v.value for v in variables],
        output_gradients=tf.cast(cotangent, output.dtype),
    )
    return [gradients.dense(g) for g in gradient]
