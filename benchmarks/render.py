"""Turns records into tables, and a report into files."""

import dataclasses
import math
import operator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

METHODS = {"sgd": "SGD", "bilevel": "Deep Bilevel"}
# Metrics that several experiments show.
HEADERS = {
    "test": "test (clean)",
    "train_given": "train (given)",
    "gap": "gap",
    "suspect_auroc": "suspects' AUROC",
    "best_test": "best epoch's test",
}
# What the columns that several experiments share mean; see `memorised`.
NOTES = [
    "Mean ± standard deviation over seeds, which change subset, noise and "
    "initial weights. After the last epoch unless it says otherwise.",
    "Gap: accuracy on the given training labels minus clean test accuracy; "
    "the higher, the more wrong labels were memorised.",
    "Suspects' AUROC: wrong labels found by the mean probability of the given "
    "label, over all steps (Deep Bilevel: `ExampleHistory`) or all recorded "
    "epochs (SGD: `LabelCurves`). 0.5 is chance, 1.0 is perfect.",
    "The best epoch's test accuracy is what nobody can pick without clean "
    "data.",
]


@dataclasses.dataclass(frozen=True)
class Report:
    """What an experiment has to say."""

    title: str
    table: list  # Of rows of strings, the header first; see `table`.
    notes: list  # Of sentences below the table.
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


# What a run is, in words.


def method(settings):
    """Returns SGD or Deep Bilevel, with its batch or shards."""
    batch_size, shards = settings["batch_size"], settings["num_shards"]
    if settings["method"] == "sgd":
        return f"SGD, batch {batch_size}"
    text = f"Deep Bilevel, {shards} shards of {batch_size // shards}"
    if settings["num_validation_shards"] > 1:
        text += f", {settings['num_validation_shards']} validate"
    return text


def noise(settings):
    """Returns what is wrong with the labels."""
    kind, fraction = settings["noise_kind"], settings["noise"]
    if kind == "human":
        return f"human ({settings['label_set']})"
    if kind == "uniform":
        return "all labels random"
    return f"{fraction:.0%} {kind}" if fraction else "clean"


def rate(settings):
    return f"{settings['learning_rate']:g}"


def data_and_rate(settings):
    """Returns what is learnt, and how fast."""
    return f"{settings['dataset']}, rate {rate(settings)}"


def data_and_noise(settings):
    """Returns what is learnt, and what is wrong with its labels."""
    return f"{settings['dataset']}, {noise(settings)}"


# Records.


def group(records, key):
    """Groups records by a setting, or a function of all of them, in order."""
    read, groups = reader(key), {}
    for record in records:
        groups.setdefault(read(record["settings"]), []).append(record)
    return groups


def reader(key):
    """Returns a function of settings: `key`, or what reads that setting."""
    return key if callable(key) else operator.itemgetter(key)


def held_out(records):
    """Returns the records that choose on held-out labels, and the others."""
    groups = group(records, lambda s: bool(s["held_out"]))
    return groups.get(True, []), groups.get(False, [])


def values(records, metric):
    """Returns a metric of all records; `None` where one has it not."""
    return [record["metrics"].get(metric) for record in records]


def values_by(records, key, metric):
    """Returns the values of a metric in each group of records."""
    groups = group(records, key)
    return {name: values(runs, metric) for name, runs in groups.items()}


def best(records, metric):
    """Returns the record in which a metric is highest."""
    return max(records, key=lambda record: record["metrics"][metric])


def spread(values):
    """Returns mean and sample standard deviation; NaN where undefined."""
    values = np.array(values, float)  # None becomes NaN.
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    return float(values.mean()), float(deviation)


def cell(values):
    """Returns "mean ± standard deviation" of some runs; one count as it is."""
    mean, deviation = spread(values)
    if math.isnan(mean):
        return "-"
    if math.isnan(deviation):
        count = isinstance(values[0], int)
        return str(values[0]) if count else f"{mean:.3f}"
    return f"{mean:.3f} ± {deviation:.3f}"


def columns(*metrics):
    """Returns columns of a table: some of `HEADERS`."""
    return {HEADERS[metric]: metric for metric in metrics}


def table(records, rows, columns):
    """Returns one row per group of runs that differ in their seed.

    Args:
        records: List of records.
        rows: Dict from header to the name of a setting, or to a function of
            all of them: what tells groups apart.
        columns: Dict from header to the name of a metric, or to a function
            `records of a row -> string`.
    """
    reads = [reader(key) for key in rows.values()]
    groups = group(records, lambda s: tuple(str(read(s)) for read in reads))
    body = [
        [*names, *(_cell(runs, c) for c in columns.values()), str(len(runs))]
        for names, runs in groups.items()
    ]
    return [[*rows, *columns, "runs"], *body]


def _cell(records, column):
    if callable(column):
        return column(records)
    return cell(values(records, column))


def memorised(records):
    """Returns the table of what was learnt and what was learnt by heart."""
    rows = {"data": data_and_rate, "noise": noise, "method": method}
    return table(records, rows, columns(*HEADERS))
