"""Early-learning regularisation, against a float64 version in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import keras_bilevel as kb
from tests.distribute.runs import mirrored

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.integers(0, 3, 24)
START = RNG.normal(size=(4, 3)).astype("float32")
RATE, BETA, STRENGTH = 0.3, 0.6, 2.0


def model_of(from_logits=True, **options):
    activation = None if from_logits else "softmax"
    layer = keras.layers.Dense(3, activation=activation, use_bias=False)
    net = keras.Sequential([keras.Input((4,)), layer])
    net.set_weights([START])
    rule = kb.selection.EarlyLearning(BETA, STRENGTH)
    model = kb.SelectionModel(net, rule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(keras.optimizers.SGD(RATE), loss, **options)
    return model


def reference(batches):
    """Eqs. 6 and 9 and their gradient, by hand."""
    weights = START.astype("float64")
    memory = np.zeros((24, 3))
    losses = []
    for rows in batches:
        x, p = X[rows].astype("float64"), softmax(X[rows] @ weights, axis=-1)
        memory[rows] = BETA * memory[rows] + (1 - BETA) * p
        t = memory[rows]
        agreement = np.sum(t * p, axis=-1, keepdims=True)
        given = np.eye(3)[Y[rows]]
        losses.append(
            np.mean(
                STRENGTH * np.log(1 - agreement[:, 0])
                - np.log(np.sum(given * p, axis=-1))
            )
        )
        # d<t, p>/dz = p * (t - <t, p>)
        slope = p - given
        slope -= STRENGTH / (1 - agreement) * p * (t - agreement)
        weights -= RATE * x.T @ slope / len(rows)
    return weights, memory, losses


def order(epochs):
    rows = np.arange(24).reshape(3, 8)
    return [row for _ in range(epochs) for row in rows]


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str
)
def test_steps_are_those_of_the_paper(from_logits, options):
    model = model_of(from_logits, **options)
    log = model.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    weights, memory, losses = reference(order(4))
    np.testing.assert_allclose(model.models[0].get_weights()[0], weights, 1e-4)
    np.testing.assert_allclose(model.rule.targets, memory, rtol=1e-4)
    means = np.reshape(losses, (4, 3)).mean(axis=1)
    np.testing.assert_allclose(log.history["loss"], means, rtol=1e-4)


def test_two_replicas_remember_as_one_does():
    with mirrored(2).scope():
        model = model_of()
    model.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    weights, memory, _ = reference(order(4))
    np.testing.assert_allclose(model.models[0].get_weights()[0], weights, 1e-4)
    memories = tf.distribute.get_strategy().experimental_local_results(
        model.rule.memory.value
    )
    for copy in memories[0].values:
        np.testing.assert_allclose(copy, memory, rtol=1e-4)


def test_a_saved_model_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, half = model_of(), model_of()
    whole.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    half.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    half.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.rule.targets, half.rule.targets)
    loaded.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded.rule.targets, whole.rule.targets, 1e-5)
    fresh = model_of()
    half.save_weights(tmp_path / "model.weights.h5")
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.rule.targets, half.rule.targets)


def test_what_is_not_finite_or_does_not_count_is_not_remembered():
    x, weights = X.copy(), np.ones(24, "float32")
    x[2], weights[5] = np.nan, 0.0
    model = model_of()
    model.fit(x, Y, 8, sample_weight=weights, shuffle=False, verbose=0)
    seen = model.rule.targets.any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(~seen), [2, 5])
    assert np.isfinite(model.models[0].get_weights()[0]).all()


def test_an_example_twice_in_a_batch_moves_twice():
    rule = kb.selection.EarlyLearning(0.5, num_examples=2)
    rule.prepare(None, 2)
    p = keras.ops.convert_to_tensor([[0.8, 0.2], [0.4, 0.6]], "float32")
    rule.remember(np.array([1, 1]), p, np.array([True, True]))
    np.testing.assert_allclose(rule.targets, [[0.0, 0.0], [0.6, 0.4]], 1e-6)


def test_without_its_term_it_is_plain_keras():
    model = model_of()
    model.rule.strength = 0.0
    model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    plain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, use_bias=False)]
    )
    plain.set_weights([START])
    plain.compile(keras.optimizers.SGD(RATE), model.loss)
    plain.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        model.models[0].get_weights()[0], plain.get_weights()[0], 1e-5
    )


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="beta=1.0"):
        kb.selection.EarlyLearning(beta=1.0)
    with pytest.raises(ValueError, match="strength=-1"):
        kb.selection.EarlyLearning(strength=-1)
    with pytest.raises(ValueError, match="num_examples=0"):
        kb.selection.EarlyLearning(num_examples=0)
    with pytest.raises(ValueError, match="Call `fit` first"):
        kb.selection.EarlyLearning().targets
    with pytest.raises(ValueError, match="batches with ids"):
        batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
        model_of().fit(batches, verbose=0)
    with pytest.raises(ValueError, match="1 for EarlyLearning"):
        kb.SelectionModel([], kb.selection.EarlyLearning())


def of_outputs(units, activation, loss, y):
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units, activation)]
    )
    model = kb.SelectionModel(network, kb.selection.EarlyLearning())
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(X, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_output_is_a_class_and_its_opposite(from_logits):
    activation = None if from_logits else "sigmoid"
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    model = of_outputs(1, activation, loss, Y % 2)
    targets = model.rule.targets
    assert targets.shape == (24, 2)
    # Three visits, (1 - beta) each.
    np.testing.assert_allclose(targets.sum(1), 1 - 0.7**3, rtol=1e-5)
    assert np.ptp(targets[:, 1]) > 0.01


@pytest.mark.parametrize(
    "units, activation, loss",
    [
        (3, "sigmoid", "binary_crossentropy"),
        (1, None, "mse"),
        # Nothing says that these are logits.
        (
            3,
            None,
            lambda y, y_pred: keras.losses.categorical_crossentropy(
                y, y_pred, from_logits=True
            ),
        ),
    ],
)
def test_predictions_that_are_no_classes_are_refused(units, activation, loss):
    y = np.eye(3, dtype="float32")[Y][:, :units]
    with pytest.raises(ValueError, match="one label for each example"):
        of_outputs(units, activation, loss, y)


def test_more_examples_than_are_remembered_are_refused():
    model = of_outputs(3, "softmax", "sparse_categorical_crossentropy", Y)
    twice = np.tile(X, (2, 1)), np.tile(Y, 2)
    with pytest.raises(ValueError, match="48. Received: num_examples=24"):
        model.fit(*twice, verbose=0)
