"""Figures that several experiments draw.

`rows`, `columns` and `lines` are settings of a run, or functions of
all of them: they tell the panels of a figure apart, and the lines of a panel.
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


def curves(
    records,
    rows="dataset",
    columns=render.noise,
    lines=render.method,
    kinds=tuple(STYLES),
):
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


def band(axes, x, low, high, color):
    """Shades what lies between two curves."""
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


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
            against(axes, runs, "learning_rate", metric, **looks[name])
        axes.set_xscale("log")

    return panels(records, rows, columns, draw, "rate", looks, YLABELS[metric])


def against(axes, records, setting, metric, **look):
    """Draws a metric against a setting, with one deviation over seeds."""
    found = render.values_by(records, setting, metric)
    places = sorted(found)
    mean, deviation = moments(found[place] for place in places)
    axes.errorbar(places, mean, deviation, **look)


def moments(found):
    """Returns means and deviations, 0 for one value, of lists of values."""
    mean, deviation = np.array([render.spread(values) for values in found]).T
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


def stack(records, key, width, height):
    """Returns a figure and, for each group of records, its axes and records.

    The panels lie below one another; a group is what `key` tells apart.
    """
    groups = render.group(records, key)
    size = width, height * len(groups)
    figure = Figure(figsize=size, layout="constrained")
    column = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    return figure, [(axes, *item) for axes, item in zip(column, groups.items())]


def bars(
    records,
    describe,
    metrics=("cpu_ratio", "wall_ratio"),
    xlabel="ratio to plain Keras (lower is better)",
):
    """Draws ratios as bars, a row for each record that has the metrics."""
    records = [r for r in records if metrics[0] in r["metrics"]]
    figure = Figure(figsize=(7, 1 + 0.3 * len(records)), layout="constrained")
    axes = figure.subplots()
    places, height = np.arange(len(records)), 0.8 / len(metrics)
    for number, metric in enumerate(metrics):
        at = places + height * (number - (len(metrics) - 1) / 2)
        axes.barh(at, render.values(records, metric), height, label=metric)
    axes.axvline(1.0, color="black", linewidth=0.8)
    names = [describe(record["settings"]) for record in records]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.legend()
    return figure


def means(axes, found, colors=COLORS):
    """Draws a bar for the values of each name; returns their means."""
    mean, deviation = moments(found.values())
    axes.barh(list(found), mean, xerr=deviation, color=colors[: len(mean)])
    axes.invert_yaxis()
    return mean


def dots(names, found, xlabel, markers="o"):
    """Draws a row of means for each name, as dots.

    `found` has the values of each name, a list by the label of a dot.
    """
    figure = Figure(figsize=(9, 2 + 0.25 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for number, (label, values) in enumerate(found.items()):
        places = [np.mean(some or [np.nan]) for some in values]
        marker = markers[number % len(markers)]
        color = COLORS[number % len(COLORS)]
        look = {"label": label, "color": color, "alpha": 0.8}
        axes.plot(places, rows, marker, **look)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set(xlabel=xlabel)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
