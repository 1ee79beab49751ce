"""Records layer calls to derive per-row gradients and JVPs.

Where no layer mixes examples, one backward pass gives the deltas of all
examples: the derivatives of their losses with respect to the output of each
layer call. The inputs and deltas of a call determine the gradient of the
layer's variables, for any rows and any weights, and inner products with it.

Layers are called through an attribute `call` of their own for that, up to
their activation. A functional model that also returns the inputs and outputs
of its layers gives the same numbers, but has to compute each activation again
for each shard.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from keras_bilevel import keras_private

# Networks and layers that process each row of a batch independently. Types are
# compared exactly: a subclass may do anything.
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
    """Returns whether all layers are known to process rows independently.

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
    # A user's own activation may mix rows, and so may a normalisation along the
    # batch axis.
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", "keras").split(".")[0]
    axes = keras.tree.flatten(getattr(layer, "axis", []))
    if axes:
        # For inputs of rank 2, axis -2 is the batch axis.
        shape = (layer.get_build_config() or {}).get("input_shape")
        axes = [0] if shape is None else [axis % len(shape) for axis in axes]
    return (
        type(layer) in _ROW_BY_ROW
        and module == "keras"
        and 0 not in axes
        # An activity regulariser is a loss of all examples together.
        and getattr(layer, "activity_regularizer", None) is None
    )


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

        <v^T J, u> = <v, J u> is linear in the cotangent v, so that its
        derivative with respect to v is J u. In a graph, only J u is executed.
        `tf.autodiff.ForwardAccumulator` would also compute the product with the
        tangent of the inputs, which is 0.

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
def recorded(network, variables):
    """Records the layer calls of a network within the context.

    Args:
        network: `keras.Model`, see `keeps_rows_apart`.
        variables: List of the trainable variables.

    Yields:
        A list. Each call of a layer that owns some of the variables appends a
        `Call`.
    """
    trainable = {id(variable) for variable in variables}
    calls = []
    changed = []
    for layer in keras_private.all_layers(network):
        own = keras_private.own_trainable_variables(layer)
        own = [v for v in own if id(v) in trainable]
        if own:
            # Read here, because mixed precision casts the values inside of the
            # layer.
            values = [v.value for v in own]
            call = functools.partial(
                _record, layer, layer.call, own, values, calls
            )
            # Bypasses the attribute tracking of Keras.
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
    """Calls a layer without its activation, which comes last in all of them."""
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
    # The gradient of an embedding is sparse, a `tf.IndexedSlices`.
    return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradient]
