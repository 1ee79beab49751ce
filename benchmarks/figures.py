"""Figures that several experiments draw.

`rows`, `columns` and `lines` are functions of a run's settings: they tell the
panels of a figure apart, and the lines of a panel.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import render

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = {"test": "-", "train_given": "--", "train_clean": ":"}
NAMES = {
    "test": "test",
    "train_given": "train, given labels",
    "train_clean": "train, clean labels",
}
YLABELS = {
    "test": "test accuracy",
    "held_out": "accuracy on held-out noisy labels",
}


def curves(records, rows, columns, lines=render.method, kinds=tuple(STYLES)):
    """Draws accuracies over epochs, with a band of one deviation over seeds.

    `kinds` are those of `STYLES` that are drawn.
    """
    colors = dict(zip(render.group(records, lines), COLORS))

    def draw(axes, members):
        for name, runs in render.group(members, lines).items():
            found, color = render.values(runs, "curves"), colors[name]
            epochs = found[0]["epoch"]
            for kind in kinds:
                accuracy = np.array([curve[kind] for curve in found])
                mean, deviation = accuracy.mean(0), accuracy.std(0)
                axes.plot(epochs, mean, STYLES[kind], color=color)
                band(axes, epochs, mean - deviation, mean + deviation, color)

    legend = {name: {"color": color} for name, color in colors.items()}
    for kind in kinds:
        legend[NAMES[kind]] = {"color": "gray", "linestyle": STYLES[kind]}
    return panels(records, rows, columns, draw, "epoch", legend)


def band(axes, x, low, high, color, alpha=0.15):
    """Shades what lies between two curves."""
    axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def rates(records, rows, columns, lines, metric):
    """Draws an accuracy against the rate, with one deviation over seeds."""
    looks = {
        name: {
            "color": COLORS[i % len(COLORS)],
            "linestyle": ("-", "--")[i // len(COLORS)],
            "marker": "o",
        }
        for i, name in enumerate(render.group(records, lines))
    }

    def draw(axes, members):
        for name, runs in render.group(members, lines).items():
            at = render.group(runs, lambda s: s["learning_rate"])
            places = sorted(at)
            mean, deviation = moments([at[rate] for rate in places], metric)
            axes.errorbar(places, mean, deviation, **looks[name])
        axes.set_xscale("log")

    return panels(records, rows, columns, draw, "rate", looks, YLABELS[metric])


def moments(groups, metric):
    """Returns means and deviations, 0 for one run, of groups of records."""
    found = [render.spread(render.values(runs, metric)) for runs in groups]
    mean, deviation = np.array(found).T
    return mean, np.nan_to_num(deviation)


def panels(records, rows, columns, draw, xlabel, legend, ylabel="accuracy"):
    """Draws one panel for each row and column, and one legend for all.

    `draw` is a function of axes and the panel's records; `legend` is a dict
    from a text to how its line looks.
    """
    across = list(render.group(records, columns))
    down = render.group(records, rows)
    size = 3.5 * len(across) + 1.5, 3 * len(down) + 1
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(down), len(across), squeeze=False, sharey=True)
    for (name, members), line in zip(down.items(), grid):
        parts = render.group(members, columns)
        for column, axes in zip(across, line):
            if column not in parts:
                axes.set_visible(False)
                continue
            draw(axes, parts[column])
            axes.set_title(f"{name}, {column}", fontsize=10)
            axes.set_xlabel(xlabel)
            axes.tick_params(labelleft=True)
            axes.grid(alpha=0.3)
        line[0].set_ylabel(ylabel)
    grid[0, 0].set_ylim(bottom=0)  # The axes are shared.
    figure.legend(
        handles=[Line2D([], [], label=k, **v) for k, v in legend.items()],
        loc="outside lower center",
        ncols=min(len(across) + 1, 4),
        frameon=False,
        fontsize=9,
    )
    return figure


def stack(records, key, width, height, extra=0.0):
    """Returns a figure and, for each group of records, its axes and records.

    The panels lie below one another; a group is what `key` tells apart.
    """
    groups = render.group(records, key)
    size = width, extra + height * len(groups)
    figure = Figure(figsize=size, layout="constrained")
    column = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    return figure, [(axes, *item) for axes, item in zip(column, groups.items())]
