"""The layers that are known to keep the examples of a batch apart.

What is not in these tables may do anything, and so may a subclass: types are
compared exactly. `BatchNormalization` mixes examples unless it is frozen.
Shards of examples can still be kept apart in it, see `shard_norms`.
"""

import keras
from keras import layers

from keras_bilevel import keras_private


def _by_label(layer):
    # In "abc,cd->abd" examples have the label a.
    inputs, _, outputs = layer.equation.partition("->")
    inputs, kernel = inputs.split(",")
    if inputs.startswith("..."):
        return outputs.startswith("...")
    first = inputs[0]
    is_biased = first in (layer.bias_axes or "")
    return outputs[0] == first and first not in kernel and not is_biased


def _by_attention(layer):
    return 0 not in (layer.get_config()["attention_axes"] or ())


def _by_draws(layer):
    # One mask for a batch would be one for all shards.
    shape = layer.noise_shape
    return shape is None or shape[0] is None


# Of their kernel and bias, as long as they have no other variables.
_LINEAR = (
    layers.Conv1D,
    layers.Conv1DTranspose,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Conv3D,
    layers.Conv3DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)


def is_linear(layer):
    """Returns whether a layer is linear in its variables."""
    is_known = type(layer) in _LINEAR
    return is_known and len(layer.weights) == 1 + layer.use_bias


# Networks and layers, and what else has to hold for them.
ROW_BY_ROW = {
    kind: None
    for kind in (
        keras.Sequential,
        layers.InputLayer,
        # With variables.
        *_LINEAR,
        layers.AdditiveAttention,
        layers.Attention,
        layers.Embedding,
        layers.GroupNormalization,
        layers.GroupQueryAttention,
        layers.LayerNormalization,
        layers.Normalization,
        layers.PReLU,
        layers.RMSNormalization,
        layers.SeparableConv1D,
        layers.SeparableConv2D,
        # Without.
        layers.Activation,
        layers.Add,
        layers.Average,
        layers.AveragePooling1D,
        layers.AveragePooling2D,
        layers.AveragePooling3D,
        layers.Concatenate,
        layers.Cropping1D,
        layers.Cropping2D,
        layers.Cropping3D,
        layers.Dot,
        layers.ELU,
        layers.Flatten,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
        layers.GlobalAveragePooling3D,
        layers.GlobalMaxPooling1D,
        layers.GlobalMaxPooling2D,
        layers.GlobalMaxPooling3D,
        layers.Identity,
        layers.LeakyReLU,
        layers.Masking,
        layers.MaxPooling1D,
        layers.MaxPooling2D,
        layers.MaxPooling3D,
        layers.Maximum,
        layers.Minimum,
        layers.Multiply,
        layers.Permute,
        layers.ReLU,
        layers.RepeatVector,
        layers.Rescaling,
        layers.Reshape,
        layers.Resizing,
        layers.Softmax,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.Subtract,
        layers.UnitNormalization,
        layers.UpSampling1D,
        layers.UpSampling2D,
        layers.UpSampling3D,
        layers.ZeroPadding1D,
        layers.ZeroPadding2D,
        layers.ZeroPadding3D,
    )
}
ROW_BY_ROW[layers.AlphaDropout] = ROW_BY_ROW[layers.Dropout] = _by_draws
ROW_BY_ROW[layers.BatchNormalization] = lambda layer: not layer.trainable
ROW_BY_ROW[layers.EinsumDense] = _by_label
ROW_BY_ROW[layers.MultiHeadAttention] = _by_attention


def _without_renorm(layer):
    # Its corrections follow averages that each shard moves.
    return not getattr(layer, "renorm", False)


# By name: Keras' operations have no public classes.
_SHORTCUTS = ("Add", "Subtract", "Multiply")

SHARD_BY_SHARD = {
    **ROW_BY_ROW,
    layers.BatchNormalization: _without_renorm,
}


def first_unknown(network, known):
    """Returns the first layer that may mix examples, or `None`.

    Args:
        network: `keras.Model`, built.
        known: `ROW_BY_ROW`, or `SHARD_BY_SHARD` for layers that may mix the
            examples of a shard.
    """
    for layer in keras_private.all_layers(network):
        is_known = (
            _is_graph_of_layers(layer)
            if type(layer).__name__ == "Functional"
            else _is_known(layer, known)
        )
        if not is_known:
            return layer
    return None


def keeps_rows_apart(network):
    """Returns whether all layers are known to process rows independently.

    Args:
        network: `keras.Model`, built.
    """
    return first_unknown(network, ROW_BY_ROW) is None


def _is_graph_of_layers(network):
    return _is_of_keras(network) and all(
        isinstance(operation, keras.Layer) or _keeps_apart(operation)
        for operation in network.operations
    )


def _is_of_keras(instance):
    return type(instance).__module__.startswith("keras.")


def _keeps_apart(operation):
    """Returns whether a bare operation is known to keep examples apart.

    Most are not, such as the two of `x - mean(x, axis=0)`.
    """
    # The mask that Keras makes of the tokens of an `Embedding`.
    name = type(operation).__name__
    if name == "NotEqual":
        return True
    # A shortcut, such as `x + y`. Of another rank, y may meet other axes.
    ranks = [len(t.shape) for t in keras.tree.flatten(operation.input)]
    is_known = name in _SHORTCUTS and _is_of_keras(operation)
    return is_known and len(ranks) == 2 and ranks[0] == ranks[1]


def _is_known(layer, known):
    if type(layer) not in known:
        return False
    condition = known[type(layer)]
    # A user's own activation may mix rows.
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", "keras").split(".")[0]
    return (
        module == "keras"
        and 0 not in _axes(layer)
        # An activity regulariser is a loss of all examples together.
        and getattr(layer, "activity_regularizer", None) is None
        # Keras does not call `call` then.
        and getattr(layer, "quantization_mode", None) is None
        and (condition is None or condition(layer))
    )


def _axes(layer):
    """Returns the axes that a layer acts along, from 0; 0 if not known."""
    axes = [getattr(layer, name, None) for name in ("axis", "axes")]
    axes = [axis for axis in keras.tree.flatten(axes) if axis is not None]
    # For inputs of rank 2, axis -2 is the batch axis.
    inputs = keras.tree.flatten(getattr(layer, "input", []))
    if inputs:
        return [axis % len(inputs[0].shape) for axis in axes]
    # A layer within another layer, such as the softmax of attention.
    return [0 if axis < -1 else axis for axis in axes]
