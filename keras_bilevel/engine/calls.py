"""Records layer calls, to derive gradients of single rows and tangents.

Where no layer mixes examples, one backward pass gives the deltas of all
examples: the derivatives of their losses in what each call of a layer puts
out. With a call's inputs, that is all that a gradient in the layer's variables
needs, for any rows and any weights, and all that a product with one needs.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from keras_bilevel import keras_private

# Networks and layers that treat each row of a batch by itself. The types have
# to be these exactly: a subclass may do anything.
_ROW_BY_ROW = {
    keras.Sequential,
    layers.InputLayer,
    # With variables.
    layers.Dense,
    layers.Embedding,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.LayerNormalization,
    layers.GroupNormalization,
    # Without.
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.UpSampling2D,
    layers.Flatten,
    layers.Rescaling,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
}


def keeps_rows_apart(network):
    """Returns whether all parts of a network are known to keep rows apart.

    Args:
        network: `keras.Model`, built.
    """
    return all(
        _is_graph_of_layers(layer)
        if type(layer).__name__ == "Functional"
        else _is_row_by_row(layer)
        for layer in keras_private.all_layers(network)
    )


def _is_graph_of_layers(network):
    # Bare operations, such as `x - mean(x, axis=0)`, may mix rows.
    return type(network).__module__.startswith("keras.") and all(
        isinstance(operation, keras.Layer) for operation in network.operations
    )


def _is_row_by_row(layer):
    # A user's own activation may mix rows, too, and so may a normalisation.
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", "keras").split(".")[0]
    axes = keras.tree.flatten(getattr(layer, "axis", []))
    if axes:
        # -2 is the batch where inputs are vectors.
        shape = (layer.get_build_config() or {}).get("input_shape")
        axes = [0] if shape is None else [axis % len(shape) for axis in axes]
    return (
        type(layer) in _ROW_BY_ROW
        and module == "keras"
        and 0 not in axes
        # It is a loss of all examples together.
        and getattr(layer, "activity_regularizer", None) is None
    )


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a layer, up to its activation.

    Attributes:
        layer: The layer.
        function: What was called, `output = function(*args, **kwargs)`.
        variables: List of the layer's own trainable variables.
        inputs: Tuple of `args` and `kwargs`.
        output: Tensor of shape `(batch_size, ...)`.
        tape: `tf.GradientTape` that has seen the call, persistent.
    """

    layer: keras.Layer
    function: Callable
    variables: list
    inputs: tuple
    output: tf.Tensor
    tape: tf.GradientTape

    def gradient(self, deltas):
        """Returns the gradient in each of the variables, float32.

        Args:
            deltas: Tensor of the shape of the output.
        """
        return _gradient(self.tape, self.output, self.variables, deltas)

    def gradient_of_rows(self, cut, deltas):
        """Returns the gradient in each of the variables by some rows alone.

        Args:
            cut: Function that takes these rows out of a tensor.
            deltas: Tensor, those of the rows.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self.variables])
            args, kwargs = keras.tree.map_structure(
                lambda t: cut(t) if tf.is_tensor(t) else t, self.inputs
            )
            output = self.function(*args, **kwargs)
        return _gradient(tape, output, self.variables, deltas)

    def tangent(self, directions):
        """Returns how the output changes with the variables.

        The backward pass is linear in the cotangent v: <v, J u> = <v^T J, u>,
        and the derivative of that in v is J u. Of all this only J u is
        computed in a graph. `tf.autodiff.ForwardAccumulator` would add the
        product with a tangent of the inputs, which is 0.

        Args:
            directions: Dict from the id of a variable to a tensor of its
                shape, u.

        Returns:
            Tensor of the shape of the output, or `None` where there is no
            direction.
        """
        along = [v for v in self.variables if id(v) in directions]
        if not along:
            return None
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            cotangent = tf.zeros_like(self.output)
            outer.watch(cotangent)
            gradient = _gradient(self.tape, self.output, along, cotangent)
            projection = tf.add_n(
                [
                    tf.reduce_sum(g * directions[id(v)])
                    for g, v in zip(gradient, along)
                ]
            )
        return outer.gradient(projection, cotangent)


def summed(parts, variables):
    """Sums gradients of calls: a layer may have been called several times.

    Args:
        parts: Iterable of a `Call` and what its `gradient` returns.
        variables: List of the trainable variables.

    Returns:
        List with the gradient of each variable, `None` where no call has it.
    """
    sums = {}
    for call, gradient in parts:
        for variable, part in zip(call.variables, gradient):
            sums[id(variable)] = sums.get(id(variable), 0.0) + part
    return [sums.get(id(variable)) for variable in variables]


@contextlib.contextmanager
def recorded(network, variables):
    """Lets the layers of a network leave their calls.

    Args:
        network: `keras.Model` that keeps rows apart.
        variables: List of the trainable variables.

    Yields:
        A list, to which each call of a layer that owns some of them adds its
        `Call`.
    """
    trainable = {id(variable) for variable in variables}
    calls = []
    changed = []
    for layer in keras_private.all_layers(network):
        own = keras_private.own_trainable_variables(layer)
        own = [v for v in own if id(v) in trainable]
        if own:
            # Inside of the layer, mixed precision would cast the values.
            values = [v.value for v in own]
            call = functools.partial(
                _record, layer, layer.call, own, values, calls
            )
            # Keras tracks what is set in the ordinary way.
            object.__setattr__(layer, "call", call)
            changed.append(layer)
    try:
        yield calls
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


def _record(layer, call, variables, values, calls, *args, **kwargs):
    linear = functools.partial(_without_activation, layer, call)
    with tf.GradientTape(
        persistent=True, watch_accessed_variables=False
    ) as tape:
        tape.watch(values)
        output = linear(*args, **kwargs)
    calls.append(Call(layer, linear, variables, (args, kwargs), output, tape))
    activation = getattr(layer, "activation", None)
    return output if activation is None else activation(output)


def _without_activation(layer, call, *args, **kwargs):
    """Calls a layer up to its activation, which is known to come last."""
    if not hasattr(layer, "activation"):
        return call(*args, **kwargs)
    activation = layer.activation
    object.__setattr__(layer, "activation", None)
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(layer, "activation", activation)


def _gradient(tape, output, variables, cotangent):
    gradient = tape.gradient(
        output,
        [v.value for v in variables],
        output_gradients=tf.cast(cotangent, output.dtype),
    )
    # An embedding's is that of some rows only.
    return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradient]
