"""What the figures show."""

import numpy as np
import pytest
from scipy import stats

from keras_bilevel.tuners import figures
from keras_bilevel.tuners.search import Result
from tests.tuners import tools

X = np.concatenate([np.full(4, 0.25), np.linspace(0.1, 0.9, 16)])
VALUES = (0.3, np.nan, 0.2, 0.4)
RESULTS = [Result(X, value, 0) for value in VALUES]


def test_figures_of_a_reloaded_search(tmp_path):
    tools.tuner(tmp_path, max_trials=12).search(verbose=0)
    tuner = tools.tuner(tmp_path, max_trials=12)
    schedules = tuner.plot_schedules(epochs=30).get_lines()
    assert len(schedules) == 12
    values = [result.value for result in tuner.oracle.results()]
    widths = [line.get_linewidth() for line in schedules]
    assert np.argmax(widths) == np.argmin(values)
    np.testing.assert_allclose(
        schedules[np.argmin(values)].get_ydata(),
        tuner.best_schedule(30)(np.arange(30)),
    )
    assert len(tuner.plot_density().axes) == 20 + 1
    assert tuner.plot_progress().get_ylabel() == "distance"


@pytest.mark.parametrize("direction, sign", [("min", 1), ("max", -1)])
def test_progress_is_the_best_so_far(direction, sign):
    results = [Result(X, sign * value, 0) for value in VALUES]
    axes = figures.plot_progress(results, direction, "loss")
    best = axes.get_lines()[0].get_ydata()
    expected = [0.3, 0.3, 0.2, 0.2] if sign > 0 else [0.3, 0.3, 0.3, 0.4]
    np.testing.assert_allclose(best, expected)
    assert axes.get_legend_handles_labels()[1][-1] == "failed"


def test_density_is_that_of_theta():
    thetas = [np.ones(36), 1 + 9 * np.random.default_rng(0).random(36)]
    panels = figures.plot_density(thetas).axes
    last = thetas[1]
    marginals = {
        0: (last[0], last[1:4].sum()),
        3: (last[3], last[:3].sum()),
        4: last[4:6],
        19: last[34:36],
    }
    for place, pair in marginals.items():
        x, y = panels[place].get_lines()[-1].get_data()
        np.testing.assert_allclose(y, stats.beta.pdf(x, *pair))
    assert panels[19].get_title() == "beta_3_3"
    shared = figures.plot_density([np.ones(12)], shared=True)
    assert len(shared.axes) == 8 + 1


def test_error_for_a_search_without_results():
    for results in ([], [Result(X, np.nan, 0)]):
        with pytest.raises(ValueError, match="Call `search"):
            figures.plot_progress(results)


def test_error_for_a_wrong_number_of_epochs():
    with pytest.raises(ValueError, match="`epochs`"):
        figures.plot_sampled(RESULTS, 0)
