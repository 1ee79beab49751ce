"""Noise layers, against their formulas in NumPy."""

import keras
import numpy as np
import pytest
from scipy.special import softmax

import keras_bilevel as kb

RNG = np.random.default_rng(0)
P = softmax(RNG.normal(size=(6, 3)), axis=-1)
COUNTS = np.array([[7, 2, 1], [0, 6, 4], [3, 0, 7]])
FLIPS = COUNTS / 10
LAYERS = {"softmax": kb.layers.NoiseAdaptation, "linear": kb.layers.LinearNoise}


@pytest.mark.parametrize("kind", LAYERS)
def test_in_training_it_gives_the_noisy_label_else_the_true_one(kind):
    layer = LAYERS[kind](confusion=COUNTS)
    noisy = np.einsum("ij,ni->nj", FLIPS, P)
    # The softmax has no shares of 0: the least is 1e-4.
    np.testing.assert_allclose(layer(P, training=True), noisy, atol=2e-4)
    for inference in (layer(P), layer(P, training=False)):
        np.testing.assert_array_equal(inference, P.astype("float32"))


@pytest.mark.parametrize("kind", LAYERS)
def test_padding_does_not_count(kind):
    x = np.array([[1, 2, 0], [2, 0, 0]])
    network = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(3, 3, mask_zero=True),
            keras.layers.Dense(3, activation="softmax"),
            LAYERS[kind](confusion=COUNTS),
        ]
    )
    network.compile("sgd", "sparse_categorical_crossentropy")
    losses = []
    for padding in (0, 2):
        y = np.where(x > 0, 1, padding)
        y_pred = network(x, training=True)
        losses.append(float(network.compute_loss(None, y, y_pred)))
    assert losses[0] == losses[1]


def test_input_of_unknown_width_is_an_error():
    with pytest.raises(ValueError, match="a known number of classes"):
        kb.layers.NoiseAdaptation()(keras.Input((None,)))


@pytest.mark.parametrize("kind", LAYERS)
def test_it_starts_from_a_guess_of_the_noise(kind):
    layer = LAYERS[kind](noise=0.3)
    layer.build((None, 4))
    wanted = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    np.testing.assert_allclose(layer.transition(), wanted, rtol=1e-5)


def test_the_default_of_the_linear_layer_is_the_identity():
    layer = kb.layers.LinearNoise()
    np.testing.assert_array_equal(layer(P, training=True), P.astype("float32"))


def test_the_regulariser_is_of_trace_and_squares():
    layer = kb.layers.LinearNoise(trace=0.5, decay=0.2, confusion=FLIPS)
    layer.build((None, 3))
    wanted = 0.5 * np.trace(FLIPS) + 0.2 * np.sum(FLIPS**2)
    (loss,) = layer.losses
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)


def test_a_step_leaves_rows_of_probabilities():
    layer = kb.layers.LinearNoise(decay=0.0)
    layer.build((None, 3))
    start = np.eye(3)
    move = np.array([[0.5, -0.2, 0.1], [0.3, 0.3, -0.4], [2.0, 2.0, 2.0]])
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.apply(
        [keras.ops.convert_to_tensor(move, "float32")],
        layer.trainable_variables,
    )
    wanted = np.maximum(start - move, 0) + 1e-7
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(layer.transition(), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_copy_from_its_config_is_the_same(kind):
    layer = LAYERS[kind](confusion=COUNTS, noise=0.2)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    np.testing.assert_allclose(copy(P, training=True), layer(P, training=True))
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_it_learns_the_true_classes_alone_and_in_a_bilevel_model(
    kind, wrapped, tmp_path
):
    keras.utils.set_random_seed(0)
    clean = np.arange(600) % 3
    x = np.eye(3, dtype="float32")[clean]
    y = (clean + (RNG.random(600) < 0.3)) % 3
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, activation="softmax"),
            LAYERS[kind](noise=0.2),
        ]
    )
    if wrapped:
        model = kb.BilevelModel(model, kb.weighting.DeepBilevel(num_shards=4))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    before = keras.ops.convert_to_numpy(model.trainable_variables[-1])
    model.fit(x, y, batch_size=120, epochs=20, verbose=0)
    assert model.evaluate(x, clean, verbose=0)[1] == 1.0
    assert not np.allclose(model.trainable_variables[-1], before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.trainable_variables[-1], model.trainable_variables[-1]
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kb.layers.NoiseAdaptation(noise=1.5), "noise=1.5"),
        (lambda: kb.layers.NoiseAdaptation([[1.0, 2.0]]), "square matrix"),
        (lambda: kb.layers.LinearNoise(confusion=np.zeros((2, 2))), "positive"),
        (lambda: kb.layers.LinearNoise(trace=-1.0), "trace=-1.0"),
        (lambda: kb.layers.LinearNoise(decay=-1.0), "decay=-1.0"),
        (lambda: kb.layers.NoiseAdaptation(FLIPS)(P[:, :2]), "3 classes"),
        (lambda: kb.layers.NoiseAdaptation()(P[:, :1]), "2 classes"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
