"""Proposition 1, and where the four updates lead."""

import numpy as np
import pytest
from scipy import optimize

from keras_bilevel.tuners import updates
from keras_bilevel.tuners.distribution import Distribution
from tests.tuners.distribution_test import differences

WANTED = np.concatenate([[0.1, 0.2, 0.3, 0.4], np.linspace(0.1, 0.9, 16)])


def estimates(rounds, size, theta_of_draws=None):
    """Estimates of many rounds for f(x) = x_0 x_2 + 5, and what they mean."""
    p, theta = Distribution(2, 1), np.array([2.0, 3.0, 1.5, 2.5])
    drawn = theta if theta_of_draws is None else np.array(theta_of_draws)
    rng = np.random.default_rng(0)

    def objective(t):
        return t[0] / (t[0] + t[1]) * t[2] / (t[2] + t[3]) + 5

    def gradient(t):
        return differences(objective, t, 1e-4)

    found = []
    for _ in range(rounds):
        x = p.sample(drawn, rng, size)
        ratio = p.log_density(x, theta) - p.log_density(x, drawn)
        g, h = updates.estimate(
            p.score(x, theta),
            p.fisher(theta),
            x[:, 0] * x[:, 2] + 5,
            np.exp(ratio),
        )
        found.append(np.concatenate([g, h.ravel()]))
    expected = [gradient(theta), differences(gradient, theta, 1e-3).ravel()]
    return np.array(found), np.concatenate(expected)


def test_proposition_1_is_unbiased_with_the_baseline():
    found, expected = estimates(8000, 4)
    errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    off = np.abs(np.mean(found, axis=0) - expected)
    assert np.all(off < 3 * errors)
    # It would see the bias of a baseline of all K: a share 1/K is missing.
    assert np.max(np.abs(expected) / 4 / errors) > 3


def test_weights_stand_for_another_distribution():
    found, expected = estimates(40, 1000, [1.5, 3.0, 1.2, 2.0])
    errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 3.5 * errors)


def test_baseline_takes_the_variance_away():
    p, theta = Distribution(2, 1), np.ones(4)
    x = p.sample(theta, np.random.default_rng(0), 4)
    arguments = p.score(x, theta), p.fisher(theta)
    near = updates.estimate(*arguments, x[:, 0], np.ones(4))
    far = updates.estimate(*arguments, x[:, 0] + 1e4, np.ones(4))
    for a, b in zip(near, far):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("update", updates.STEPS)
def test_mean_ends_at_the_optimum(update):
    p, theta = Distribution(4, 16), np.ones(36)
    rng = np.random.default_rng(0)
    for _ in range(120):
        x = p.sample(theta, rng, 1000)
        values = np.sum((x - WANTED) ** 2, axis=1)
        theta = updates.next_theta(
            p, theta, x, values, np.ones(len(x)), update, step=1.0
        )
    assert np.max(np.abs(p.mean(theta) - WANTED)) < 0.05
    assert np.all((theta >= 1) & (theta <= 50))


@pytest.mark.parametrize("update", updates.STEPS)
@pytest.mark.parametrize("values", [[0.5] * 4, [0.5], []])
def test_round_without_spread_leaves_theta(update, values):
    p, theta = Distribution(4, 16), np.full(36, 3.0)
    x = p.sample(theta, np.random.default_rng(0), len(values))
    values = np.array(values)
    after = updates.next_theta(
        p, theta, x, values, np.ones(len(values)), update, step=1.0
    )
    np.testing.assert_array_equal(after, theta)


@pytest.mark.parametrize("update", updates.STEPS)
def test_scale_of_values_does_not_matter(update):
    p, theta = Distribution(4, 16), np.full(36, 3.0)
    x = p.sample(theta, np.random.default_rng(0), 6)
    values, ones = np.arange(6.0), np.ones(6)
    one = updates.next_theta(p, theta, x, values, ones, update, 0.1)
    other = updates.next_theta(p, theta, x, 70 * values - 9, ones, update, 0.1)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert np.max(np.abs(one - theta)) > 1e-3


def indefinite(seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((6, 6))
    return rng.standard_normal(6), matrix + matrix.T


def test_newton_step_on_a_bowl_is_newtons():
    gradient, matrix = indefinite()
    bowl = matrix @ matrix + 30 * np.eye(6)  # No eigenvalue is clipped.
    step = updates.newton_step(gradient, bowl, None, 1.0)
    np.testing.assert_allclose(step, -np.linalg.solve(bowl, gradient))


def test_newton_step_descends_where_newtons_would_climb():
    gradient, hessian = indefinite()
    assert np.linalg.eigvalsh(hessian)[0] < 0
    step = updates.newton_step(gradient, hessian, None, 1.0)
    assert gradient @ step < 0
    # Assumption 3: no eigenvalue below a tenth of the largest.
    largest = np.max(np.abs(np.linalg.eigvalsh(hessian)))
    assert np.linalg.norm(step) <= np.linalg.norm(gradient) / largest * 10


@pytest.mark.parametrize("step", [0.1, 1.0, 10.0])
def test_cubic_step_minimizes_its_model(step):
    gradient, hessian = indefinite()

    def model(d):
        cube = np.linalg.norm(d) ** 3 / (6 * step)
        return gradient @ d + d @ hessian @ d / 2 + cube

    found = updates.cubic_step(gradient, hessian, None, step)
    rng = np.random.default_rng(1)
    starts = 5 * step * rng.standard_normal((20, 6))
    least = min(optimize.minimize(model, start).fun for start in starts)
    assert model(found) <= least + 1e-6 * abs(least)


def test_cubic_step_of_no_gradient_is_finite():
    _, hessian = indefinite()
    bowl = hessian @ hessian
    assert np.linalg.norm(updates.cubic_step(np.zeros(6), bowl, None, 1)) < 1e-6
