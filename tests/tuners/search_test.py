"""What is tried, without KerasTuner: curves, the surrogate, the rounds."""

import numpy as np
import pytest
from scipy import stats

from keras_bilevel import schedules
from keras_bilevel.tuners import updates
from keras_bilevel.tuners.curves import curves
from keras_bilevel.tuners.search import Result
from keras_bilevel.tuners.search import Search
from keras_bilevel.tuners.surrogate import Surrogate
from tests.tuners.tools import EPOCHS
from tests.tuners.tools import WANTED


def search(**options):
    defaults = dict(
        samples_per_round=4,
        update="natural",
        step=0.3,
        candidates=1,
        shared=False,
        epochs=EPOCHS,
        seed=0,
    )
    return Search(**(defaults | options))


def objective(x):
    return float(np.sqrt(np.mean((curves(x[None], EPOCHS) - WANTED) ** 2)))


def run(searcher, count, results=()):
    """Makes trials one after another."""
    results = list(results)
    while len(results) < count:
        searcher.advance(results)
        x = searcher.draw(len(results), results)
        results.append(Result(x, objective(x), len(searcher.thetas) - 1))
    searcher.advance(results)
    return results


@pytest.mark.parametrize("shared", [False, True])
def test_curves_are_those_of_the_schedule(shared):
    rng = np.random.default_rng(0)
    names = schedules.S2ESchedule.hyperparameter_names(shared=shared)
    x = rng.random((5, len(names)))
    x[:, :4] /= np.sum(x[:, :4], axis=1, keepdims=True)
    x[0, 4] = x[1, -1] = 0.0  # Where 0^0 must not show.
    found = curves(x, EPOCHS)
    for row, share in zip(x, found):
        beta = row[4:].reshape((4,) if shared else (4, 4))
        schedule = schedules.S2ESchedule(row[:4], beta, EPOCHS, shared)
        expected = schedule(np.arange(EPOCHS))
        np.testing.assert_allclose(share, expected, atol=1e-5)


def test_surrogate_is_a_gaussian_process():
    rng = np.random.default_rng(0)
    x, new = rng.random((12, EPOCHS)) * 0.2, rng.random((3, EPOCHS)) * 0.2
    values = np.sum(x[:, :3], axis=1) + 5
    surrogate = Surrogate(x, values)
    fit = surrogate._fit
    # Eq. 2.25 and 2.26, with the settings it took.
    y = (values - np.mean(values)) / np.std(values)
    noise = fit.noise
    pending = rng.random((2, EPOCHS)) * 0.2

    def kernel(a, b):
        squares = np.mean((a[:, None] - b) ** 2, axis=-1)
        return (1 - noise) * np.exp(-squares / (2 * fit.length**2))

    known = kernel(x, x) + noise * np.eye(len(x))
    inverse = np.linalg.inv(known)
    across = kernel(new, x)
    mean = across @ inverse @ y * np.std(values) + np.mean(values)
    np.testing.assert_allclose(surrogate.mean(new), mean, rtol=1e-6)
    for more in (pending[:0], pending):
        tried = np.concatenate([x, more])
        inverse = np.linalg.inv(
            kernel(tried, tried) + noise * np.eye(len(tried))
        )
        across = kernel(new, tried)
        variance = np.diag(kernel(new, new) - across @ inverse @ across.T)
        deviation = np.sqrt(fit._variance * variance) * np.std(values)
        np.testing.assert_allclose(
            surrogate.deviation(new, more), deviation, rtol=1e-5
        )
    density = stats.multivariate_normal(cov=fit._variance * known)
    constant = len(y) / 2 * (np.log(2 * np.pi) + 1)
    np.testing.assert_allclose(fit.likelihood - constant, density.logpdf(y))


def test_surrogate_tells_noise_from_signal():
    rng = np.random.default_rng(0)
    x = rng.random((60, 1)) * np.linspace(0, 1, EPOCHS)
    signal = np.cos(4 * x[:, -1])
    surrogate = Surrogate(x, signal + 0.1 * rng.standard_normal(60))
    assert np.sqrt(np.mean((surrogate.mean(x) - signal) ** 2)) < 0.06
    far, near, none = np.ones((1, EPOCHS)) * 3, x, x[:0]
    unsure = surrogate.deviation(near, none)
    assert surrogate.deviation(far, none) > 3 * np.max(unsure)


def test_what_others_try_is_tried_less_often():
    search = Search(4, "newton", 1.0, 256, False, EPOCHS, seed=0)
    results = []
    for number in range(12):
        x = search.draw(number, results)
        distance = np.mean((curves(x[None], EPOCHS)[0] - WANTED) ** 2)
        results.append(Result(x, float(distance), 0))
    alone = [search.draw(number, results) for number in range(12, 24)]
    beside = [
        search.draw(number, results, pending=[x])
        for number, x in zip(range(12, 24), alone)
    ]
    assert not np.array_equal(alone, beside)


def test_a_round_is_algorithm_2():
    searcher = search(update="newton", step=0.7)
    results = run(searcher, 4)
    x = np.stack([result.x for result in results])
    values = np.array([result.value for result in results])
    p, theta = searcher.distribution, np.ones(36)
    values = values / np.std(values)
    others = [np.mean(np.delete(values, i)) for i in range(4)]
    s, f = p.score(x, theta), values - others
    gradient = np.mean(f[:, None] * s, axis=0)
    hessian = np.mean(
        [f[i] * (np.outer(s[i], s[i]) - p.fisher(theta)) for i in range(4)],
        axis=0,
    )
    step = updates.newton_step(gradient, hessian, None, 0.7)
    assert len(searcher.thetas) == 2
    np.testing.assert_allclose(searcher.thetas[1], p.project(1 + step))


def test_late_trials_are_weighed_by_their_own_theta():
    searcher = search()
    late, *others = run(searcher, 8)[3:]
    searcher.thetas = searcher.thetas[:2]
    x, _, weights = searcher._round([late, *others[1:]])
    p = searcher.distribution
    first, own = (np.exp(p.log_density(x, t)) for t in searcher.thetas)
    np.testing.assert_array_equal(x[0], late.x)
    np.testing.assert_allclose(weights, own / (0.25 * first + 0.75 * own))
    assert np.max(weights) <= 4 / 3
    _, _, weights = searcher._round(others)
    np.testing.assert_allclose(weights, 1)


@pytest.mark.parametrize("candidates", [1, 32])
def test_failed_trials_close_their_round_and_are_left_out(candidates):
    searcher = search(candidates=candidates)
    results = run(searcher, 12)
    bad = [Result(results[0].x, value, 0) for value in (np.nan, np.inf)]
    searcher = search(candidates=candidates)
    searcher.advance([*results[:2], *bad])
    assert len(searcher.thetas) == 2
    other = search(candidates=candidates, samples_per_round=2)
    other.advance(results[:2])
    if candidates == 1:
        np.testing.assert_array_equal(searcher.theta, other.theta)
    all_bad = search(candidates=candidates)
    all_bad.advance(bad * 4)
    assert len(all_bad.thetas) == 3
    np.testing.assert_array_equal(all_bad.theta, np.ones(36))


@pytest.mark.parametrize("candidates", [1, 32])
def test_the_same_results_lead_to_the_same_search(candidates):
    whole, halves = (search(candidates=candidates) for _ in range(2))
    expected = run(whole, 20)
    begun = run(halves, 9)
    resumed = search(candidates=candidates)
    resumed.thetas = list(halves.thetas)
    found = run(resumed, 20, begun)
    for a, b in zip(expected, found):
        np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(whole.thetas, resumed.thetas)
    assert len({tuple(result.x) for result in expected}) == 20


@pytest.mark.parametrize("update", updates.STEPS)
def test_default_search_beats_even_draws(update):
    def best(seed, **options):
        options = {"step": 1.0} | options
        results = run(search(seed=seed, **options), 24)
        return min(result.value for result in results)

    found = [best(seed, candidates=64, update=update) for seed in range(2)]
    even = [best(seed, step=1e-9) for seed in range(2)]
    assert np.mean(found) < 0.8 * np.mean(even)


@pytest.mark.parametrize(
    "options",
    [
        {"samples_per_round": 1},
        {"update": "adam"},
        {"step": 0.0},
        {"candidates": 0},
        {"epochs": 0},
    ],
)
def test_invalid_arguments(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        search(**options)
