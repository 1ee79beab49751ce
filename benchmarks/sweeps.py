"""How do shards, their size, mu, held-out data and noise matter?

The sweeps of the Deep Bilevel paper: its Fig. 2 changes one thing at a time of
a baseline; its Fig. 3 the share of wrong labels, on two data sets. Its Table 4
has labels that a network predicts under dropout. All runs are alike here; for
Fig. 3 the paper has 100 epochs and mini-batches of 64.

The paper's rate, 0.01, is that of all runs: `ablations` found it the better of
two for SGD and for the baseline. `quick` has two sizes: more images, of which
SGD learns few wrong labels by heart in that time, and few images for so long
that it knows all of them.
"""

import numpy as np
from matplotlib.figure import Figure

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import training

COMMON = {"learning_rate": 0.01, "decay": 0.95}
PRESETS = {
    "quick": {
        "network": "small_cifarnet",
        "sizes": [
            {"num_train": 10_000, "epochs": 30, "every": 10},
            {"num_train": 2_500, "epochs": 120, "every": 20, "decay": 1.0},
        ],
        "noises": [0.0, 0.2, 0.5, 0.8],
        "seeds": [0],
    },
    "paper": {
        "network": "cifarnet",
        "sizes": [{"num_train": None, "epochs": 200, "every": 20}],
        "noises": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        "seeds": [0, 1, 2],
    },
}
NUM_SHARDS, SHARD_SIZE, MU = 8, 16, 0.01
NOISES = (0.0, 0.5)  # Of Fig. 2.
# What Fig. 2 changes, from row to row: held-out data, shards, their size, mu.
SWEEPS = {
    "validation ratio": [0.1, 0.25, 0.5],
    "shards": [2, 4, 16, 32],
    "shard size": [8, 32],
    "mu": [1e-4, 1.0, 100.0],
}
AT_BASE = {
    "validation ratio": None,
    "shards": NUM_SHARDS,
    "shard size": SHARD_SIZE,
    "mu": MU,
}
SGD = {"method": "sgd", "batch_size": NUM_SHARDS * SHARD_SIZE}
PREDICTED = {
    "noise_kind": "predicted",
    "noise": None,
    "teacher": {"learning_rate": 0.01, "batch_size": 128, "epochs": 5},
}


def bilevel(**changes):
    """Returns the settings of a row of Fig. 2."""
    values = {**AT_BASE, **changes}
    count = values["shards"]
    size = values["shard size"]
    if "shards" in changes:  # As many examples in a step.
        size = NUM_SHARDS * SHARD_SIZE // count
    settings = {
        **plans.bilevel(count),
        "batch_size": count * size,
        "weighting": {"same_dropout": True, "mu": values["mu"]},
    }
    ratio = values["validation ratio"]
    return settings | ({} if ratio is None else {"validation_ratio": ratio})


def _plan(preset, records):
    """All runs; those of two figures are made once."""
    common = {
        **plans.NOISY,
        **COMMON,
        "dataset": "cifar10",
        "network": preset["network"],
    }
    sizes = plans.grid(plans.each("seed", preset["seeds"]), preset["sizes"])
    return plans.grid([common], sizes, _cases(preset["noises"]))


def _cases(noises):
    """Returns what is changed for each run of one size, a list."""
    noisy = plans.grid(
        plans.each("dataset", ["cifar10", "cifar100"]),
        plans.each("noise", noises),
        [SGD, bilevel()],
    )
    predicted = plans.grid([PREDICTED], [SGD, bilevel()])
    swept = [
        {"noise": noise, **bilevel(**{name: value})}
        for noise in NOISES
        for name, values in SWEEPS.items()
        for value in values
    ]
    return [*noisy, *predicted, *swept]


def changed(settings):
    """Returns what a run changes of the baseline, as `(name, value)`."""
    if settings["method"] == "sgd":
        return "SGD", None
    found = {
        "validation ratio": settings.get("validation_ratio"),
        "shards": settings["num_shards"],
        "mu": settings["weighting"]["mu"],
        "shard size": settings["batch_size"] // settings["num_shards"],
    }
    for name, value in found.items():
        if value != AT_BASE[name]:
            return name, value
    return "baseline", None


def _method(settings):
    name, value = changed(settings)
    return name if value is None else f"{name} {value:g}"


def _noise(settings):
    if settings["noise_kind"] == "predicted":
        return "predicted under dropout"
    return render.noise(settings)


def run(settings, data_dir=None, verbose=0):
    """Trains once, and tells how many of the given labels are wrong."""
    trained = training.train(settings, data_dir, verbose)
    return {**trained.metrics, "wrong": float(trained.task.wrong.mean())}


def _report(records):
    rows = {
        "data": "dataset",
        "images": lambda s: str(s["num_train"] or "all"),
        "epochs": "epochs",
        "noise": _noise,
        "method": _method,
    }
    columns = {
        **render.columns("test", "train_given", "gap", "best_test"),
        "labels wrong": "wrong",
    }
    return render.Report(
        "What matters to Deep Bilevel Learning",
        render.table(records, rows, columns),
        [
            *render.NOTES[:2],
            f"Baseline: {NUM_SHARDS} shards of {SHARD_SIZE}, mu {MU:g}, one "
            "dropout mask for all shards, no data that only validate. A row "
            "changes one thing. With more shards each is smaller: a step has "
            "as many examples. With other sizes it has more or fewer.",
            "Predicted under dropout: labels of a network that has learnt the "
            "right ones, as in the paper's Table 4.",
            render.NOTES[3],
        ],
        _figure(records),
    )


def places(settings):
    """Returns where a run stands in the figure: panel, line and x, a list."""
    dataset, noise = settings["dataset"], settings["noise"]
    name, value = changed(settings)
    if noise is None:
        return []
    found = []
    if name in ("SGD", "baseline"):
        line = "SGD" if name == "SGD" else "Deep Bilevel"
        found.append((f"share of wrong labels, {dataset}", line, noise))
    if dataset == "cifar10" and noise in NOISES and name != "SGD":
        at = AT_BASE if name == "baseline" else {name: value}
        line = render.noise(settings)
        found += [(panel, line, x or 0.0) for panel, x in at.items()]
    return found


def _figure(records):
    """Two rows of panels for each size."""
    sizes = render.group(records, "num_train")
    figure = Figure(figsize=(11, 7 * len(sizes)), layout="constrained")
    folders = np.atleast_1d(figure.subfigures(len(sizes)))
    for folder, (size, members) in zip(folders, sizes.items()):
        folder.suptitle(f"{size or 'all'} images")
        _panels(folder, members)
    return figure


def _panels(figure, records):
    """A panel for each row of Fig. 2, and for each data set of Fig. 3."""
    panels = {name: {} for name in SWEEPS}
    for record in records:
        for panel, line, x in places(record["settings"]):
            runs = panels.setdefault(panel, {}).setdefault(line, {})
            runs.setdefault(x, []).append(record)
    for axes, (name, lines) in zip(figure.subplots(2, 3).flat, panels.items()):
        for (line, at), color in zip(lines.items(), figures.COLORS):
            x = sorted(at)
            for kind in ("test", "train_given"):
                found = [render.values(at[i], kind) for i in x]
                mean, deviation = figures.moments(found)
                style = f"o{figures.STYLES[kind]}"
                label = f"{line}, {figures.NAMES[kind]}"
                axes.errorbar(
                    x, mean, deviation, fmt=style, color=color, label=label
                )
        axes.set(xlabel=name, ylim=(0, 1))
        if name in ("mu", "shards", "shard size"):
            axes.set_xscale("log")
            axes.set_xticks(x, map(str, x), minor=False)
            axes.set_xticks([], minor=True)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)


EXPERIMENT = runner.Experiment("sweeps", PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
