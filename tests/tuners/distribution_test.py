"""The relaxed distribution against SciPy and finite differences."""

import numpy as np
import pytest
from scipy import stats

from keras_bilevel.tuners.distribution import Distribution

ALPHA = np.array([0.1, 0.25, 0.3, 0.35])
BETA = np.array([0.03, 0.5, 0.9])
X = np.concatenate([ALPHA, BETA])
THETAS = {
    "uniform": np.ones(10),
    "drawn": 1 + 8 * np.random.default_rng(0).random(10),
    "highest": np.full(10, 50.0),
}


def log_density(x, theta):
    pairs = theta[4:].reshape(-1, 2)
    return stats.dirichlet.logpdf(x[:4], theta[:4]) + sum(
        stats.beta.logpdf(beta, *pair) for beta, pair in zip(x[4:], pairs)
    )


def differences(function, theta, width=1e-5):
    """Central differences of a function of theta, one a row."""
    moves = width * np.eye(len(theta))
    return np.stack(
        [(function(theta + m) - function(theta - m)) / 2 / width for m in moves]
    )


@pytest.mark.parametrize("theta", THETAS.values(), ids=THETAS)
def test_log_density_score_and_hessian(theta):
    p = Distribution(4, 3)
    expected = log_density(X, theta)
    np.testing.assert_allclose(p.log_density(X, theta), expected)
    score = differences(lambda t: log_density(X, t), theta)
    np.testing.assert_allclose(p.score(X, theta), score, rtol=1e-5, atol=1e-6)
    hessian = differences(lambda t: p.score(X, t), theta)
    np.testing.assert_allclose(-p.fisher(theta), hessian, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("theta", THETAS.values(), ids=THETAS)
def test_samples_have_mean_and_score_covariance(theta):
    p = Distribution(4, 3)
    rng = np.random.default_rng(1)
    x = p.sample(theta, rng, 4000)
    np.testing.assert_allclose(np.sum(x[:, :4], axis=1), 1)
    assert np.all((x >= 0) & (x <= 1))
    errors = np.std(x, axis=0) / np.sqrt(len(x))
    assert np.all(np.abs(np.mean(x, axis=0) - p.mean(theta)) < 3.5 * errors)
    scores = p.score(x, theta)
    products = scores[:, :, None] * scores[:, None, :]
    errors = np.std(products, axis=0) / np.sqrt(len(x))
    off = np.abs(np.mean(products, axis=0) - p.fisher(theta))
    assert np.all(off < 4 * errors)


def test_batches_and_borders():
    p = Distribution(4, 3)
    theta = THETAS["drawn"]
    batch = np.stack([X, p.mean(theta)])
    assert p.log_density(batch, theta).shape == (2,)
    np.testing.assert_allclose(p.score(batch, theta)[0], p.score(X, theta))
    border = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.5])
    assert np.all(np.isfinite(p.score(border, theta)))


def test_projection_keeps_the_mean_of_large_thetas():
    p = Distribution(4, 1)
    theta = np.array([10.0, 20.0, 30.0, 100.0, 0.2, 7.0])
    expected = [5, 10, 15, 50, 1, 7]
    np.testing.assert_allclose(p.project(theta), expected)
    far = np.array([-5.0, -5.0, -5.0, -5.0, 1e6, 1e-3])
    np.testing.assert_allclose(p.project(far), [1, 1, 1, 1, 50, 1])
