"""Which parts of Deep Bilevel Learning matter?

The rows of the paper's Table 1, on clean labels and on half wrong ones, and of
its Table 2, on images with permuted pixels. The baseline is the paper's: one
dropout mask for all shards. Rows (a) to (d) each change one thing about it; (d)
is `DeepBilevel` as it is by default.

The paper has one rate for all rows. `quick` gives each row the better of two,
by the accuracy on held-out *given* labels, which everybody has, and then trains
anew on all of them. `paper` has the paper's networks, data, epochs and rates,
without the augmentation that it has for Inception; nothing is chosen.
"""

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

COMMON = {"dataset": "cifar10", "batch_size": 128, "decay": 0.95}
PRESETS = {
    "quick": {
        "networks": {"small_cifarnet": [0.01, 0.03]},
        "size": {"num_train": 10_000, "epochs": 30, "every": 5},
        "seeds": [0, 1, 2],
    },
    "paper": {
        "networks": {"cifarnet": [0.01], "small_inception": [0.1]},
        "size": {"num_train": None, "epochs": 200, "every": 20},
        "seeds": [0, 1, 2],
    },
}


def _bilevel(**weighting):
    return {**plans.bilevel(8), "weighting": weighting}


BASELINE = "baseline, one dropout mask"
SAME = {"same_dropout": True}
ROWS = {
    "SGD": {"method": "sgd"},
    BASELINE: _bilevel(**SAME),
    "a) no L1 norm": _bilevel(**SAME, l1_normalize=False),
    "b) weights per layer": _bilevel(**SAME, per_layer=True),
    "c) shards not stratified": {**_bilevel(**SAME), "stratify_by": None},
    "d) a mask for each shard": _bilevel(),
}
DATA = {
    "clean": {"noise": 0.0},
    "50% symmetric": {"noise": 0.5},
    "pixels permuted": {"noise": 0.0, "permuted": True},
}
PERMUTED_ROWS = ["SGD", BASELINE, "d) a mask for each shard"]
# The paper's accuracies in percent, in the order of `ROWS`. With wrong labels
# its row (b) is the same for both networks, in training too.
PAPER = {
    ("cifarnet", "clean"): [75.7, 75.5, 74.3, 74.4, 68.2, 74.8],
    ("cifarnet", "50% symmetric"): [45.2, 47.6, 45.8, 49.6, 23.9, 49.2],
    ("inception", "clean"): [88.1, 87.8, 77.1, 85.3, 78.3, 87.9],
    ("inception", "50% symmetric"): [47.6, 73.1, 62.2, 49.6, 27.2, 75.7],
    ("inception", "pixels permuted"): [33.2, 33.6],
}


def _runs(preset, seed, held_out):
    """Returns the settings of all rows at all rates, for one seed."""
    return [
        plans.noisy(
            **COMMON,
            **preset["size"],
            seed=seed,
            held_out=held_out,
            network=network,
            learning_rate=rate,
            noise=case["noise"],
            method=ROWS[row]["method"],
        )
        | {"case": name, "row": row, **case, **ROWS[row]}
        for network, rates in preset["networks"].items()
        for name, case in DATA.items()
        for row in (PERMUTED_ROWS if "permuted" in case else ROWS)
        for rate in rates
    ]


def _what(settings):
    return settings["network"], settings["case"], settings["row"]


def _choice_plan(preset, records):
    """One choice for all seeds, made on the data of seed 0."""
    runs = _runs(preset, seed=0, held_out=0.2)
    rates = list(preset["networks"].values())
    return runs if any(len(some) > 1 for some in rates) else []


def _final_plan(preset, records):
    """Each row at its best rate, on all data."""
    rate = {
        what: render.best(runs, "held_out")["settings"]["learning_rate"]
        for what, runs in render.group(records, _what).items()
    }
    return [
        settings
        for seed in preset["seeds"]
        for settings in _runs(preset, seed, held_out=0.0)
        if rate.get(_what(settings), settings["learning_rate"])
        == settings["learning_rate"]
    ]


def _by_rate(runs):
    """Returns the accuracies by which a rate was chosen."""
    found = (
        f"{run['metrics']['held_out']:.3f} at {render.rate(run['settings'])}"
        for run in runs
    )
    return ", ".join(found) or "-"


def _difference(runs, others):
    """Returns by how much runs are ahead of others, by pairs of a seed."""
    test = {run["seed"]: run["metrics"]["test"] for run in others}
    pairs = [run for run in runs if run["seed"] in test]
    return [run["metrics"]["test"] - test[run["seed"]] for run in pairs]


def _paper(settings):
    """Returns the paper's test accuracy less that of its baseline."""
    network = settings["network"]
    if "permuted" in settings:
        network = "inception"  # The paper has no other there.
    kind = "inception" if "inception" in network else "cifarnet"
    found = dict(zip(ROWS, PAPER[kind, settings["case"]]))
    if settings["row"] not in found:
        return "-"
    return f"{(found[settings['row']] - found[BASELINE]) / 100:+.3f}"


def _report(records):
    choice, final = render.held_out(records)
    choice, groups = (render.group(some, _what) for some in (choice, final))

    def held_out(runs):
        return _by_rate(choice.get(_what(runs[0]["settings"]), []))

    def ahead(runs):
        network, case, _ = _what(runs[0]["settings"])
        return render.cell(_difference(runs, groups[network, case, BASELINE]))

    rows = {
        "network": "network",
        "data": "case",
        "method": "row",
        "rate": render.rate,
    }
    columns = {
        **render.columns("test", "train_given", "gap", "best_test"),
        "against the baseline": ahead,
        "in the paper": lambda runs: _paper(runs[0]["settings"]),
        "held out (given)": held_out,
    }
    return render.Report(
        "Ablations of Deep Bilevel Learning, 8 shards of 16 examples",
        render.table(final, rows, columns),
        [
            *render.NOTES[:2],
            "Rate: where there are several, that of the best accuracy on "
            "held-out given labels (20 % of the data of seed 0), the last "
            "column. There all rows are at the same rates.",
            "Against the baseline: test accuracy less that of the baseline of "
            "the same seed. In the paper: the same of its Tables 1 and 2, one "
            "run of CifarNet or, for permuted pixels, of Inception.",
            "Pixels permuted: each image, of training and of test, in a way of "
            "its own that stays.",
            *_findings(groups),
            render.NOTES[3],
        ],
        figures.curves(
            final, "network", "case", "row", kinds=("test", "train_given")
        ),
    )


def _findings(groups):
    """Says where a row of Deep Bilevel is behind SGD."""
    behind = []
    for (network, case, row), runs in groups.items():
        found = _difference(runs, groups[network, case, "SGD"])
        if render.spread(found)[0] < 0:
            behind.append(f"{network}, {case}: {row}, {render.cell(found)}")
    return [f"Behind SGD. {'; '.join(behind)}."] if behind else []


EXPERIMENT = runner.Experiment(
    "ablations", PRESETS, [_choice_plan, _final_plan], _report
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
