"""Eqs. 8, 10 and 11 against float64 NumPy, and their properties."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_bilevel as kb
from tests.models import reference
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values

OPTIONS = [
    {},
    {"mu": 0.0},
    {"mu": 3.0, "lambda_": 0.2},
    {"l1_normalize": False},
    {"per_layer": True},
    {"per_layer": True, "l1_normalize": False},
    {"solver": "exact"},
    {"solver": "exact", "mu": 0.1},
    {"solver": "exact", "mu": 0.1, "lambda_": 2.0, "l1_normalize": False},
    {"solver": "exact", "mu": 0.1, "per_layer": True},
]


# Dense layers of which gradients of single shards are never there.
WIDE = {"inputs": 40, "hidden": 50}


def check_against_reference(num_shards, inputs=5, hidden=7, **options):
    x, y = batch_of(num_examples=4 * num_shards, inputs=inputs)
    network = tanh_network(inputs, hidden)
    before = values(network.weights)
    model = compiled(network, kb.weighting.DeepBilevel(num_shards, **options))
    step = train_step(model, x, y)

    exact = [w.astype("float64") for w in before]
    gradients = reference.shard_gradients(exact, x, y, num_shards)
    weights, total = reference.deep_bilevel(gradients, **options)
    np.testing.assert_allclose(step.weights, weights, rtol=1e-5, atol=1e-5)
    for variable, start, gradient in zip(network.weights, exact, total):
        np.testing.assert_allclose(
            variable.numpy(), start - 0.1 * gradient, rtol=1e-5, atol=1e-5
        )
    losses = [
        reference.loss_and_gradient(exact, *pair)[0]
        for pair in zip(np.split(x, num_shards), np.split(y, num_shards))
    ]
    np.testing.assert_allclose(step.losses, losses, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("num_shards", [2, 4, 8, 16, 32])
def test_step_equals_numpy(num_shards, options):
    check_against_reference(num_shards, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("num_shards", [4, 16])
def test_step_of_a_wide_network_equals_numpy(num_shards, options):
    check_against_reference(num_shards, **WIDE, **options)


@pytest.mark.parametrize("size", [{}, WIDE])
@pytest.mark.parametrize("num_validation_shards", [2, 4, 7])
def test_several_validation_shards_are_summed(num_validation_shards, size):
    check_against_reference(
        8, num_validation_shards=num_validation_shards, **size
    )


def test_two_shards_follow_plus_or_minus_the_gradient():
    x, y = batch_of(8)
    step = train_step(
        compiled(tanh_network(), kb.weighting.DeepBilevel(2)), x, y
    )
    np.testing.assert_allclose(np.abs(step.weights), [[1.0]], rtol=1e-6)


@pytest.mark.parametrize("num_shards", [4, 16])  # Unrolled and looped.
def test_compiled_step_equals_eager_step(num_shards):
    x, y = batch_of(32)
    weighting = kb.weighting.DeepBilevel(num_shards)
    results = []
    for options in ({"run_eagerly": True}, {}, {"jit_compile": True}):
        keras.utils.set_random_seed(1)
        model = compiled(tanh_network(), weighting, **options)
        model.train_on_batch(x, y)
        results.append(values(model.weights))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(1, 8)))
def test_order_of_training_shards_does_not_matter(order):
    x, y = batch_of(32)
    take = np.concatenate([np.arange(4) + 4 * i for i in [0, *order]])
    steps = []
    for rows in (slice(None), take):
        keras.utils.set_random_seed(1)
        model = compiled(tanh_network(), kb.weighting.DeepBilevel(8))
        steps.append(train_step(model, x[rows], y[rows]))
    order = [i - 1 for i in order]
    np.testing.assert_allclose(
        steps[0].weights.numpy()[:, order], steps[1].weights, rtol=1e-4
    )
    for a, b in zip(steps[0].gradients, steps[1].gradients):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-3, 1e3))
def test_scale_of_the_loss_does_not_change_weights_without_mu(scale):
    x, y = batch_of(32)
    weights = []
    for loss_weight in (1.0, scale):
        keras.utils.set_random_seed(1)
        model = compiled(
            tanh_network(),
            kb.weighting.DeepBilevel(8, mu=0.0),
            loss_weights=loss_weight,
        )
        weights.append(train_step(model, x, y).weights)
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


def linear_regression(mu=0.01, **kwargs):
    """One weight at 0, so that a shard's gradient is -2 mean(x y)."""
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(
                1, use_bias=False, kernel_initializer="zeros", **kwargs
            ),
        ]
    )
    return compiled(network, kb.weighting.DeepBilevel(4, mu=mu), loss="mse")


def test_opposed_gradients_get_opposed_weights():
    x = np.ones((4, 1), "float32")
    y = np.array([[1.0], [1.0], [-1.0], [1.0]], "float32")
    step = train_step(linear_regression(mu=0.0), x, y)
    np.testing.assert_allclose(step.weights, [[1 / 3, -1 / 3, 1 / 3]])
    np.testing.assert_allclose(step.gradients[0], [[-2.0]])


@pytest.mark.parametrize("mu", [0.0, 0.01])
def test_zero_gradients_give_a_zero_step(mu):
    model = linear_regression(mu)
    step = train_step(model, np.ones((4, 1), "float32"), np.zeros((4, 1)))
    np.testing.assert_array_equal(step.weights, np.zeros((1, 3)))
    np.testing.assert_array_equal(model.weights[0], [[0.0]])


def test_zero_exact_solution_without_mu():
    network = linear_regression().model
    weighting = kb.weighting.DeepBilevel(4, mu=0.0, solver="exact")
    model = compiled(network, weighting, loss="mse")
    step = train_step(model, np.ones((4, 1), "float32"), np.zeros((4, 1)))
    np.testing.assert_array_equal(step.gradients[0], [[0.0]])


def dropout_network():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("same_dropout", [False, True])
@pytest.mark.parametrize("num_shards", [8, 16])  # Unrolled and looped.
def test_same_dropout_repeats_one_mask_in_all_shards(
    same_dropout, jit_compile, num_shards
):
    x, y = batch_of(4)
    x, y = np.tile(x, (num_shards, 1)), np.tile(y, num_shards)  # Equal shards.
    weighting = kb.weighting.DeepBilevel(num_shards, same_dropout=same_dropout)
    model = compiled(dropout_network(), weighting, jit_compile=jit_compile)
    history = kb.callbacks.WeightHistory()
    for _ in range(2):
        model.fit(batched(x, y), verbose=0, callbacks=[history])
    first, second = history.weights
    assert np.allclose(first, 1 / (num_shards - 1)) == same_dropout
    assert np.allclose(second, 1 / (num_shards - 1)) == same_dropout


def test_same_dropout_changes_the_mask_from_step_to_step():
    network = dropout_network()
    model = compiled(
        network,
        kb.weighting.DeepBilevel(4, same_dropout=True),
        keras.optimizers.SGD(0.0),
    )
    x, y = batch_of(16)
    first, second = (train_step(model, x, y).y_pred for _ in range(2))
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"num_shards": 1}, "num_shards"),
        ({"num_shards": 4, "num_validation_shards": 4}, "validation_shards"),
        ({"num_shards": 4, "num_validation_shards": 0}, "validation_shards"),
        ({"mu": -1.0}, "mu"),
        ({"lambda_": 0.0}, "lambda_"),
        ({"solver": "cg"}, "solver"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(arguments, name):
    with pytest.raises(ValueError, match=f"{name}.*Received"):
        kb.weighting.DeepBilevel(**arguments)
