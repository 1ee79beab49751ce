"""Figures of a search, running, finished or reloaded."""

import numpy as np
from scipy.stats import beta as beta_distribution

from keras_bilevel import schedules
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.extras import axes_or_new
from keras_bilevel.extras import import_extra
from keras_bilevel.extras import new_figure
from keras_bilevel.schedules import S2ESchedule

_MOST_LINES = 8  # Rounds in a panel; more would hide one another.
_DOTS = {"color": "#56B4E9", "s": 18, "label": "a trial", "zorder": 2}
_FAILED = {"color": "#D55E00", "marker": "x", "s": 24, "label": "failed"}
_BEST = {"color": "#0072B2", "linewidth": 2, "label": "best so far"}


def plot_sampled(results, epochs, shared=False, ax=None):
    """Plots the schedules of all trials, the best one bold.

    Args:
        results: List of `Result`; see `S2EOracle.results`.
        epochs: Integer, how many epochs to show.
        shared: Boolean, as in `S2ESchedule`. Defaults to `False`.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those of
            a new figure.

    Returns:
        `matplotlib.axes.Axes`.

    Raises:
        ValueError: If no trial has ended with a value.

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 2
    """
    epochs = check_integer("epochs", epochs, 1)
    values = _values(results)
    ax = schedules.plot_schedules(
        [_schedule(result.x, epochs, shared) for result in results],
        epochs,
        best=int(np.nanargmin(values)),
        ax=ax,
    )
    # The later, the darker: where did the search go?
    lines = ax.get_lines()[-len(results) :]
    for line, age in zip(lines, np.linspace(0.2, 0.9, len(lines))):
        is_best = line.get_linewidth() > 1
        line.set(color="#D55E00" if is_best else "#0072B2")
        line.set_alpha(1.0 if is_best else age)
    ax.set_title("Schedules, the later the darker")
    ax.legend()
    return ax


def plot_density(thetas, shared=False):
    """Plots the density of `p_theta` over rounds, a panel for each number.

    Args:
        thetas: List of float arrays of shape `(size,)`, one for each round;
            see `S2EOracle.thetas`.
        shared: Boolean, as in `S2ESchedule`. Defaults to `False`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    import_extra("matplotlib", "plots")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(
        Normalize(1, max(len(thetas), 2)), colormaps["viridis_r"]
    )
    names = S2ESchedule.hyperparameter_names("", shared)
    rows = len(names) // S2ESchedule.num_parameters
    figure = new_figure((10, 1.7 * rows + 1))
    grid = figure.subplots(rows, S2ESchedule.num_parameters, sharex=True)
    shown = np.unique(
        np.linspace(0, len(thetas) - 1, _MOST_LINES).round().astype(int)
    )
    points = np.linspace(0, 1, 201)
    for place, (name, axes) in enumerate(zip(names, grid.ravel())):
        for i in shown:
            density = beta_distribution.pdf(points, *_pair(thetas[i], place))
            axes.plot(points, density, color=colors.to_rgba(i + 1))
        axes.set_title(name, fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, None), yticks=[])
    bar = figure.colorbar(colors, ax=grid, label="round", aspect=40)
    bar.set_ticks(sorted({1, *(shown + 1).tolist()}))
    return figure


def plot_progress(results, direction="min", name="objective", ax=None):
    """Plots what every trial scored, and the best one so far.

    Args:
        results: List of `Result`; see `S2EOracle.results`.
        direction: String, `"min"` or `"max"`. Defaults to `"min"`.
        name: String, what was optimized. Defaults to `"objective"`.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those of
            a new figure.

    Returns:
        `matplotlib.axes.Axes`.

    Raises:
        ValueError: If no trial has ended with a value.
    """
    values = _values(results)
    sign = -1 if direction == "max" else 1
    trials = np.arange(1, len(values) + 1)
    best = sign * np.fmin.accumulate(values)
    ax = axes_or_new(ax)
    ax.step(trials, best, where="post", **_BEST)
    ax.scatter(trials, sign * values, **_DOTS)
    failed = trials[np.isnan(values)]
    if len(failed):
        bottom = ax.get_ylim()[0]
        ax.scatter(failed, np.full(len(failed), bottom), **_FAILED)
    ax.set(xlabel="trials", ylabel=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def _pair(theta, place):
    """The two numbers of the Beta that one number of x has."""
    num_alphas = S2ESchedule.num_bases
    if place < num_alphas:  # A share of a Dirichlet.
        return theta[place], np.sum(theta[:num_alphas]) - theta[place]
    return theta[2 * place - num_alphas :][:2]


def _schedule(x, epochs, shared):
    alpha, beta = np.split(x, [S2ESchedule.num_bases])
    shape = (-1,) if shared else (S2ESchedule.num_bases, -1)
    alpha = alpha / np.sum(alpha)  # Rounded on the way between processes.
    return S2ESchedule(alpha, beta.reshape(shape), epochs, shared)


def _values(results):
    """f(x) of all trials, NaN where one failed."""
    values = np.array([result.value for result in results], "float64")
    values[~np.isfinite(values)] = np.nan
    if np.all(np.isnan(values)):
        raise wrong(
            "argument `results`",
            "at least one trial that ended with a value",
            f"{len(values)} trials, none of which did",
            "Call `search()` first.",
        )
    return values
