"""Figures that several experiments draw."""

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


def curves(records, rows, columns, lines=render.method, kinds=tuple(STYLES)):
    """Draws accuracies over epochs, with a band of one deviation over seeds.

    Args:
        records: List of records.
        rows: Function of the settings: the row of a panel.
        columns: Function of the settings: the column of a panel.
        lines: Function of the settings: the colour of a line.
        kinds: Which curves to draw, out of `STYLES`.

    Returns:
        A `matplotlib` figure.
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


def rates(records, rows, columns, lines, metric, ylabel):
    """Draws a metric against the rate, mean and one deviation over seeds.

    Args:
        records: List of records.
        rows: Function of the settings: the row of a panel.
        columns: Function of the settings: the column of a panel.
        lines: Function of the settings: the colour of a line.
        metric: Name of a metric in [0, 1].
        ylabel: String.

    Returns:
        A `matplotlib` figure.
    """
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
            at = sorted(
                render.group(runs, lambda s: s["learning_rate"]).items()
            )
            moments = [render.spread(render.values(r, metric)) for _, r in at]
            mean, deviation = np.array(moments).T
            places = [rate for rate, _ in at]
            error = np.nan_to_num(deviation)
            axes.errorbar(places, mean, error, **looks[name])
        axes.set_xscale("log")

    return panels(records, rows, columns, draw, "rate", looks, ylabel)


def panels(records, rows, columns, draw, xlabel, legend, ylabel="accuracy"):
    """Draws one panel for each row and column, and one legend for all.

    Args:
        records: List of records.
        rows: Function of the settings: the row of a panel.
        columns: Function of the settings: the column of a panel.
        draw: Function of axes and the panel's records.
        xlabel: String.
        legend: Dict from text to how its line looks, a dict.
        ylabel: String.

    Returns:
        A `matplotlib` figure.
    """
    across = list(render.group(records, columns))
    down = render.group(records, rows)
    figure = Figure(
        figsize=(3.5 * len(across) + 1.5, 3 * len(down) + 1),
        layout="constrained",
    )
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
