"""Losses of noisy labels, against their formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

import keras_bilevel as kb

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3)) * 2.0
PROBABILITIES = np.exp(log_softmax(LOGITS, axis=-1))
LABELS = np.array([0, 1, 2, 2, 1, 0])
ONE_HOT = np.eye(3)[LABELS]
FLIPS = np.array([[0.7, 0.2, 0.1], [0.0, 0.6, 0.4], [0.3, 0.0, 0.7]])
LOSSES = {
    "soft": lambda **k: kb.losses.Bootstrapping(0.7, **k),
    "hard": lambda **k: kb.losses.Bootstrapping(0.7, hard=True, **k),
    "forward": lambda **k: kb.losses.ForwardCorrection(FLIPS, **k),
}


def expected(kind, p=PROBABILITIES):
    """The loss of each example, written as in the papers."""
    if kind == "forward":
        noisy = np.einsum("ij,ni->nj", FLIPS, p)
        return -np.log(noisy[np.arange(len(p)), LABELS])
    opinion = np.eye(3)[p.argmax(-1)] if kind == "hard" else p
    return -np.sum((0.7 * ONE_HOT + 0.3 * opinion) * np.log(p), axis=-1)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], ONE_HOT])
def test_values_are_those_of_the_formula(kind, from_logits, labels):
    loss = LOSSES[kind](from_logits=from_logits, reduction="none")
    values = loss(labels, LOGITS if from_logits else PROBABILITIES)
    np.testing.assert_allclose(values, expected(kind), rtol=1e-5)


@pytest.mark.parametrize("labels", [LABELS, ONE_HOT])
def test_the_size_of_the_batch_may_be_unknown(labels):
    loss = LOSSES["soft"](reduction="none")
    signature = [
        tf.TensorSpec(labels.shape, "float32"),
        tf.TensorSpec((None, 3), "float32"),
    ]
    values = tf.function(loss, input_signature=signature)(labels, PROBABILITIES)
    np.testing.assert_allclose(values, expected("soft"), rtol=1e-5)


def test_labels_of_each_pixel():
    loss = LOSSES["forward"](reduction="none")
    values = loss(LABELS.reshape(2, 3), PROBABILITIES.reshape(2, 3, 3))
    wanted = expected("forward").reshape(2, 3)
    np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [kb.losses.Bootstrapping(1.0), kb.losses.ForwardCorrection(np.eye(3))],
    ids=["bootstrapping", "forward"],
)
def test_without_noise_it_is_cross_entropy(loss):
    plain = keras.losses.SparseCategoricalCrossentropy()
    np.testing.assert_allclose(
        loss(LABELS, PROBABILITIES), plain(LABELS, PROBABILITIES), rtol=1e-5
    )


def test_the_soft_opinion_is_part_of_the_gradient():
    logits = tf.constant(LOGITS, "float32")
    loss = LOSSES["soft"](from_logits=True, reduction="sum")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = loss(LABELS, logits)
    step = 1e-6
    slopes = np.zeros_like(LOGITS)
    for index in np.ndindex(LOGITS.shape):
        moved = np.zeros_like(LOGITS)
        moved[index] = step
        up, down = (
            expected("soft", np.exp(log_softmax(LOGITS + s * moved, -1))).sum()
            for s in (1, -1)
        )
        slopes[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(
        tape.gradient(total, logits), slopes, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_confident_mistakes_stay_finite(kind):
    p = np.array([[1.0, 0.0, 0.0]])
    assert np.isfinite(LOSSES[kind]()(LABELS[2:3], p))
    logits = np.array([[200.0, 0.0, 0.0]])
    assert np.isfinite(LOSSES[kind](from_logits=True)(LABELS[2:3], logits))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_copy_from_its_config_has_the_same_values(kind):
    loss = LOSSES[kind](from_logits=True)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.from_logits and copy.name == loss.name
    np.testing.assert_array_equal(copy(LABELS, LOGITS), loss(LABELS, LOGITS))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("wrapped", [True, False])
def test_models_train_with_it(kind, wrapped, tmp_path):
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(64, 4)).astype("float32")
    y = x[:, :3].argmax(-1)
    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    if wrapped:
        model = kb.BilevelModel(model, kb.weighting.DeepBilevel(num_shards=4))
    loss = LOSSES[kind](from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    before = model.evaluate(x, y, verbose=0)[1]
    model.fit(x, y, batch_size=32, epochs=15, verbose=0)
    after = model.evaluate(x, y, verbose=0)
    assert after[1] > max(before, 0.8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), after)


def test_known_flips_lead_to_the_clean_classes():
    # Three inputs, each with its class; labels follow FLIPS exactly.
    x = np.repeat(np.eye(3), 10, axis=0)
    y = np.concatenate(
        [
            np.repeat(np.arange(3), np.round(row * 10).astype(int))
            for row in FLIPS
        ]
    )
    layers = [keras.Input((3,)), keras.layers.Dense(3, activation="softmax")]
    net = keras.Sequential(layers)
    net.compile(keras.optimizers.Adam(0.1), LOSSES["forward"]())
    net.fit(x, y, batch_size=30, epochs=300, verbose=0)
    np.testing.assert_allclose(
        net.predict(np.eye(3), verbose=0), np.eye(3), atol=0.05
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kb.losses.Bootstrapping(1.5), r"in \[0, 1\].*beta=1.5"),
        (lambda: kb.losses.ForwardCorrection([[0.5, 0.4]]), r"shape \(num_cl"),
        (
            lambda: kb.losses.ForwardCorrection([[0.5, 0.4], [0.0, 1.0]]),
            "a sum of 1",
        ),
        (
            lambda: LOSSES["soft"]()(np.ones((1, 1)), np.ones((1, 1))),
            r"Dense\(2\)",
        ),
        (
            lambda: LOSSES["forward"]()(LABELS, np.full((6, 2), 0.5)),
            "3 classes",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_have_no_loss(kind, label):
    """It was 0, or that of the network's own opinion: nobody noticed."""
    loss = LOSSES[kind](from_logits=True, reduction="none")
    labels = np.where(np.arange(6) == 2, label, LABELS)
    values = np.array(loss(labels, LOGITS))
    assert np.isnan(values).tolist() == (np.arange(6) == 2).tolist()
