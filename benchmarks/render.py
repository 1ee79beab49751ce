"""Turns the results of any experiment into tables and figures."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = {"test": "-", "train_given": "--", "train_clean": ":"}
NAMES = {
    "test": "test",
    "train_given": "train, given labels",
    "train_clean": "train, clean labels",
}
# What the columns that several experiments share mean; see `memorised`.
NOTES = (
    "Mean ± standard deviation over seeds, which change subset, noise and "
    "initial weights. After the last epoch unless it says otherwise.",
    "Gap: accuracy on the given training labels minus clean test accuracy; "
    "the higher, the more wrong labels were memorised.",
    "Suspects' AUROC: wrong labels found by the mean probability of the given "
    "label, over all steps (Deep Bilevel: `ExampleHistory`) or all recorded "
    "epochs (SGD: `LabelCurves`). 0.5 is chance, 1.0 is perfect.",
    "The best epoch's test accuracy is what nobody can pick without clean "
    "data.",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What an experiment has to say.

    Attributes:
        title: String.
        table: List of rows of strings, the header first; see `table`.
        notes: List of sentences below the table.
        figure: `matplotlib` figure.
    """

    title: str
    table: list
    notes: list
    figure: Figure


def write(report, out, name):
    """Prints a report and writes `name`.md and `name`.png to `out`."""
    out = Path(out)
    markdown, png = out / f"{name}.md", out / f"{name}.png"
    report.figure.savefig(png, dpi=150)
    notes = "".join(f"- {note}\n" for note in report.notes)
    markdown.write_text(
        f"# {report.title}\n\n{as_markdown(report.table)}\n{notes}\n"
        f"![{report.title}]({png.name})\n",
        encoding="utf-8",
    )
    print(f"\n{report.title}\n\n{as_text(report.table)}\n{notes}")
    print(f"Table:  {markdown}\nFigure: {png}")


def describe(settings):
    """Returns what a run is, in a few words."""
    return (
        f"{settings['dataset']} {settings['network']}, "
        f"{noise(settings)}, {method(settings)}, "
        f"rate {settings['learning_rate']:g}, seed {settings['seed']}"
    )


def method(settings):
    """Returns the method of a run with its batch or shards."""
    batch_size, shards = settings["batch_size"], settings["num_shards"]
    if settings["method"] == "sgd":
        return f"SGD, batch {batch_size}"
    text = f"Deep Bilevel, {shards} shards of {batch_size // shards}"
    if settings["num_validation_shards"] > 1:
        text += f", {settings['num_validation_shards']} validate"
    return text


def noise(settings):
    """Returns the noise of a run in words."""
    kind, fraction = settings["noise_kind"], settings["noise"]
    if kind == "human":
        return f"human ({settings['label_set']})"
    if kind == "uniform":
        return "all labels random"
    return f"{fraction:.0%} {kind}" if fraction else "clean"


def data_and_rate(settings):
    """Returns what a run learns from, and how fast."""
    return f"{settings['dataset']}, rate {settings['learning_rate']:g}"


def group(records, key):
    """Returns a dict of lists of records, in order of appearance.

    Args:
        records: List of records.
        key: Function of a record's settings.
    """
    groups = {}
    for record in records:
        groups.setdefault(key(record["settings"]), []).append(record)
    return groups


def spread(values):
    """Returns mean and sample standard deviation; NaN where undefined."""
    values = np.array([np.nan if v is None else v for v in values], float)
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    return float(values.mean()), float(deviation)


def cell(values):
    """Returns "mean ± standard deviation" of some runs; one count as it is."""
    mean, deviation = spread(values)
    if math.isnan(mean):
        return "-"
    if math.isnan(deviation):
        is_count = isinstance(values[0], int)
        return str(values[0]) if is_count else f"{mean:.3f}"
    return f"{mean:.3f} ± {deviation:.3f}"


def table(records, rows, columns):
    """Returns one row per group of runs that differ in their seed.

    Args:
        records: List of records.
        rows: Dict from header to function of the settings: what tells
            groups apart.
        columns: Dict from header to the name of a metric.

    Returns:
        List of lists of strings, the header first.
    """
    groups = group(records, lambda s: tuple(read(s) for read in rows.values()))
    body = [
        [
            *names,
            *(
                cell([record["metrics"].get(metric) for record in members])
                for metric in columns.values()
            ),
            str(len(members)),
        ]
        for names, members in groups.items()
    ]
    return [[*rows, *columns, "runs"], *body]


def memorised(records):
    """Returns the table of what was learnt and what was learnt by heart."""
    rows = {
        "data": data_and_rate,
        "noise": noise,
        "method": method,
    }
    columns = {
        "test (clean)": "test",
        "train (given)": "train_given",
        "gap": "gap",
        "suspects' AUROC": "suspect_auroc",
        "best epoch's test": "best_test",
    }
    return table(records, rows, columns)


def as_text(rows):
    """Returns a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths))
        for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def as_markdown(rows):
    """Returns a table in Markdown."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def curves(records, rows, columns, lines=method, kinds=tuple(STYLES)):
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
    colors = _colors(records, lines)

    def draw(axes, members):
        for name, runs in group(members, lines).items():
            epochs = runs[0]["metrics"]["curves"]["epoch"]
            for kind in kinds:
                values = np.array(
                    [run["metrics"]["curves"][kind] for run in runs]
                )
                mean, deviation = values.mean(0), values.std(0)
                axes.plot(epochs, mean, STYLES[kind], color=colors[name])
                axes.fill_between(
                    epochs,
                    mean - deviation,
                    mean + deviation,
                    color=colors[name],
                    alpha=0.15,
                    linewidth=0,
                )

    legend = {name: {"color": color} for name, color in colors.items()}
    for kind in kinds:
        legend[NAMES[kind]] = {"color": "gray", "linestyle": STYLES[kind]}
    return panels(records, rows, columns, draw, "epoch", legend)


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
        for i, name in enumerate(group(records, lines))
    }

    def draw(axes, members):
        for name, runs in group(members, lines).items():
            points = sorted(group(runs, lambda s: s["learning_rate"]).items())
            values = [
                spread([run["metrics"][metric] for run in at_rate])
                for _, at_rate in points
            ]
            mean, deviation = np.array(values).T
            axes.errorbar(
                [rate for rate, _ in points],
                mean,
                np.nan_to_num(deviation),
                **looks[name],
            )
        axes.set_xscale("log")

    return panels(records, rows, columns, draw, "rate", looks, ylabel)


def _colors(records, lines):
    return dict(zip(group(records, lines), COLORS))


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
    across = list(group(records, columns))
    down = group(records, rows)
    figure = Figure(
        figsize=(3.5 * len(across) + 1.5, 3 * len(down) + 1),
        layout="constrained",
    )
    grid = figure.subplots(len(down), len(across), squeeze=False, sharey=True)
    for (name, members), line in zip(down.items(), grid):
        parts = group(members, columns)
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
