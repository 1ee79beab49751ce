"""Which networks keep examples apart, and what follows from that."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

import keras_bilevel as kb
from keras_bilevel.engine.tensorflow import calls
from keras_bilevel.engine.tensorflow import known_layers
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network


class Centered(layers.Dense):
    def call(self, x):
        return super().call(x - ops.mean(x, axis=0))


def mixing_operation():
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(3)(x - ops.mean(x, axis=0)))


def shortcut():
    x = keras.Input((5,))
    h = layers.Dense(5)(x)
    return keras.Model(x, layers.Dense(3)(x * h - h))


def other_rank():
    x = keras.Input((5,))
    h = layers.Dense(4)(layers.Reshape((1, 5))(x))
    return keras.Model(x, h + layers.Dense(4)(x))


def other_operand():
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(3)(x + np.ones((12, 5))))


def functional():
    x = keras.Input((5,))
    h = layers.Dense(5, activation="gelu")(x)
    return keras.Model(x, layers.Dense(3)(layers.Add()([x, h])))


@pytest.mark.parametrize(
    "make",
    [
        tanh_network,
        functional,
        shortcut,
        lambda: along(axis=-1),
        lambda: along(axis=(-2, -1), shape=(4, 3, 5)),
    ],
)
def test_known_networks_keep_examples_apart(make):
    assert known_layers.keeps_rows_apart(make())


@pytest.mark.parametrize(
    "make",
    [
        mixing_operation,
        other_rank,
        other_operand,
        lambda: keras.Sequential([keras.Input((5,)), Centered(3)]),
        lambda: keras.Sequential(
            [keras.Input((5,)), layers.BatchNormalization(), layers.Dense(3)]
        ),
        lambda: own_activation(),
        lambda: keras.Sequential(
            [keras.Input((5,)), layers.Dense(3, activity_regularizer="l2")]
        ),
        lambda: keras.Sequential(
            [keras.Input((5,)), layers.Dropout(0.5, (1, 5)), layers.Dense(3)]
        ),
        lambda: quantized(),
        lambda: along(axis=0),
        lambda: along(axis=-2),
    ],
)
def test_what_may_mix_examples_is_not(make):
    assert not known_layers.keeps_rows_apart(make())


def along(axis, shape=(4, 5)):
    layer = layers.LayerNormalization(axis=axis)
    return keras.Sequential([keras.Input(batch_shape=shape), layer])


def quantized():
    """Keras calls `quantized_call`, not `call`."""
    network = tanh_network()
    network.layers[0].quantize("int8")
    return network


def own_activation():
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(3, activation=lambda z: z - ops.mean(z, axis=0)),
        ]
    )


def test_both_ways_agree_when_weights_reach_their_bounds(monkeypatch):
    seen = []
    source, target = (*batch_of(12), np.arange(12)), batch_of(6, seed=1)
    for is_allowed in (True, False):
        monkeypatch.setattr(
            known_layers, "keeps_rows_apart", lambda _, yes=is_allowed: yes
        )
        keras.utils.set_random_seed(0)
        network = tanh_network()
        model = compiled(network, kb.weighting.Soseleto(12, alpha_lr=200.0))
        dataset = tf.data.Dataset.from_tensors((source, target)).repeat(6)
        model.fit(dataset, verbose=0)
        seen.append(
            [
                model.weighting.example_weights,
                model.weighting.example_scores,
                *network.get_weights(),
            ]
        )
    assert np.sum(seen[0][0] == 0.0) > 2
    for a, b in zip(*seen):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_layers_are_as_they_were_after_an_error():
    network = functional()
    with pytest.raises(ValueError, match="stop"):
        with calls.recorded(network, network.trainable_variables):
            raise ValueError("stop")
    assert all("call" not in vars(layer) for layer in network.layers)


def with_rank_one():
    layer = layers.Dense(3)
    layer.build((None, 5))
    layer.enable_lora(2)
    return layer


TANGENTS = {
    "Dense": (lambda: layers.Dense(3, activation="relu"), (5,)),
    "Dense of tokens": (lambda: layers.Dense(3), (4, 5)),
    "without a bias": (lambda: layers.Dense(3, use_bias=False), (5,)),
    "with LoRA": (with_rank_one, (5,)),
    "EinsumDense": (lambda: layers.EinsumDense("bi,ij->bj", 3), (5,)),
    "LayerNormalization": (layers.LayerNormalization, (5,)),
    "Conv1D": (lambda: layers.Conv1D(3, 2, dilation_rate=2), (6, 2)),
    "Conv2D": (lambda: layers.Conv2D(4, 3, strides=2, groups=2), (6, 6, 2)),
    "Conv3D": (lambda: layers.Conv3D(3, 2), (4, 4, 4, 2)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 2), (6, 2)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), (6, 6, 2)),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(3, 2), (4, 4, 4, 2)),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), (6, 2)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), (6, 6, 2)),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 2), (6, 6, 2)),
}


@pytest.mark.parametrize("is_partial", [False, True])
@pytest.mark.parametrize("name", list(TANGENTS))
def test_tangents_are_those_of_the_call(name, is_partial):
    make, shape = TANGENTS[name]
    layer = make()
    network = keras.Sequential([keras.Input(shape), layer])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *shape)).astype("float32")
    variables = network.trainable_variables
    for variable in variables:  # Biases and LoRA begin with 0.
        variable.assign(rng.normal(size=variable.shape))
    moved = variables[:1] if is_partial else variables
    along = [rng.normal(size=v.shape).astype("float32") for v in moved]
    with calls.recorded(network, variables) as recorded:
        network(x)
    (call,) = recorded
    found = call.tangent({id(v): u for v, u in zip(moved, along)})
    if hasattr(layer, "activation"):
        layer.activation = None
    with tf.autodiff.ForwardAccumulator(
        [v.value for v in moved], [tf.constant(u) for u in along]
    ) as accumulator:
        output = network(x)
    expected = accumulator.jvp(output)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(network(x), output)
