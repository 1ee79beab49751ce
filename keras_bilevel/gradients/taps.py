"""A cheaper way to the alignments, where no layer mixes examples.

Then example j's alignment is the sum over the layers of
<delta_j, d layer(a_j; theta) / d theta . u>: the backward pass has the deltas
already, and one more product per layer gives the rest. Double back-propagation
needs two, and second derivatives of everything in between (of max-pooling, on
a CPU, they take longer than a convolution).
"""

import contextlib
import functools

import keras
import tensorflow as tf
from keras import layers

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


def can_tap(network):
    """Returns whether all parts of a network are known to keep rows apart.

    Args:
        network: `keras.Model`, built.
    """
    return all(_keeps_rows_apart(layer) for layer in network._flatten_layers())


def _keeps_rows_apart(layer):
    if type(layer).__name__ == "Functional":
        is_known = type(layer).__module__.startswith("keras.")
        # Bare operations, such as `x - mean(x, axis=0)`, may mix rows.
        operations = layer.operations
        return is_known and all(
            isinstance(operation, keras.Layer) for operation in operations
        )
    # A user's own activation may mix rows, too, and so may a normalisation.
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", "keras").split(".")[0]
    axes = keras.tree.flatten(getattr(layer, "axis", -1))
    return type(layer) in _ROW_BY_ROW and module == "keras" and 0 not in axes


@contextlib.contextmanager
def tapped(network, directions):
    """Lets the layers of a network leave their outputs and tangents.

    Args:
        network: `keras.Model` for which `can_tap`.
        directions: Dict from the id of a variable to a tensor of its shape.

    Yields:
        A list, to which each call of a layer adds its output of shape
        `(batch_size, ...)` and how that changes with the layer's own variables
        in these directions.
    """
    taps = []
    changed = []
    for layer in network._flatten_layers():
        own = [v for v in layer._trainable_variables if id(v) in directions]
        if own:
            # Inside of the layer, mixed precision would cast the values.
            values = [v.value for v in own]
            along = [directions[id(v)] for v in own]
            call = functools.partial(_call, layer.call, values, along, taps)
            # Keras tracks what is set in the ordinary way.
            object.__setattr__(layer, "call", call)
            changed.append(layer)
    try:
        yield taps
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


def _call(call, variables, directions, taps, *args, **kwargs):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        output = call(*args, **kwargs)
    # Keras' cross-entropies go around a softmax or sigmoid.
    seen = getattr(output, "_keras_logits", output)
    taps.append((seen, _tangent(tape, seen, variables, directions)))
    return output


def _tangent(tape, output, variables, directions):
    """Returns how an output changes with the variables in these directions.

    The backward pass is linear in the cotangent v: <v, J u> = <v^T J, u>, and
    the derivative of that in v is J u. Of all this only J u is computed in a
    graph. `tf.autodiff.ForwardAccumulator` would add the product with a
    tangent of the inputs, which is 0.
    """
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        cotangent = tf.zeros_like(output)
        outer.watch(cotangent)
        gradients = tape.gradient(output, variables, output_gradients=cotangent)
        projection = tf.add_n(
            [
                tf.reduce_sum(tf.convert_to_tensor(g) * u)
                for g, u in zip(gradients, directions)
                if g is not None
            ]
        )
    return outer.gradient(projection, cotangent)


def contract(taps, deltas):
    """Returns the sums over all layers of <delta_j, tangent_j>.

    Args:
        taps: What `tapped` yields.
        deltas: List of the derivatives of a loss in the taps' outputs, none
            of them `None`.

    Returns:
        Tensor of shape `(batch_size,)`.
    """
    return tf.add_n(
        [
            tf.reduce_sum(
                tf.cast(delta, tf.float32) * tf.cast(tangent, tf.float32),
                axis=list(range(1, len(tangent.shape))),
            )
            for (_, tangent), delta in zip(taps, deltas)
        ]
    )
