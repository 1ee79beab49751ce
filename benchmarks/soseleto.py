"""Do weights from a small clean set help against wrong labels, and find them?

`--experiment=noise`: MNIST. `--experiment=cifar10`: the paper's Table 1, random
confusion and Caffe's network. `--experiment=human`: CIFAR-10N, whose wrong
labels people have given.
"""

import itertools

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks import render
from benchmarks import runner
from benchmarks import source_target

CHOSEN = flags.DEFINE_enum(
    "experiment", "noise", ["noise", "cifar10", "human"], "Which labels."
)

# Plain SGD and alpha_lr = 1 as in the paper's section 4.
MNIST = {
    "dataset": "mnist",
    "network": "mlp",
    "learning_rate": 0.05,
    "momentum": 0.0,
    "every": 5,
}
# A rate at which plain SGD learns noisy labels by heart within these epochs, as
# in the paper's Table 1, on noisy labels that were held out.
CIFAR = {
    "dataset": "cifar10",
    "num_source": 5_000,
    "num_target": 500,
    "network": "caffe_quick",
    "inputs": [-1, 1],
    "learning_rate": 0.03,
    "epochs": 30,
    "every": 5,
}
TABLE_1 = {**CIFAR, "num_source": 45_000, "num_target": 5_000, "epochs": 60}
# Symmetric noise and inputs in [-1, 1] are harder to tell.
HARDER = {**MNIST, "inputs": [-1, 1], "noise_kind": "symmetric"}
HUMAN = {"noise_kind": "human", "noise": None, "label_set": "worse_label"}
# Fewer visits to more images: nothing is learnt by heart.
MORE = {
    **CIFAR,
    "num_source": 10_000,
    "num_target": 1_000,
    "learning_rate": 0.01,
    "epochs": 20,
}
# Cross-validation tells wrong labels, for four trainings; no network is left.
TRAINING = [name for name in source_target.METHODS if name != "folds"]
ALPHA_LR = 1.0
# Where images are harder, the best of these on held-out noisy labels, with
# the data of another seed.
ALPHA_LRS = [1.0, 3.0, 10.0]
CHOICE = {"method": "soseleto", "held_out": 0.2, "seed": 100}
NOISES = (0.3, 0.4, 0.5)


def _preset(cases, seeds, choose_on=(), methods=TRAINING):
    return {
        "cases": cases,
        "seeds": seeds,
        "choose_on": choose_on,
        "methods": methods,
    }


def _confused(case, seeds):
    cases = [{**case, "noise": noise} for noise in NOISES]
    return _preset(cases, seeds, choose_on=[{**case, "noise": 0.4}])


def _human(case, seeds):
    cases = [{**case, **HUMAN}]
    return _preset(cases, seeds, cases, [*TRAINING, "folds"])


PRESETS = {
    "noise": {
        "quick": _preset([MNIST, HARDER], [0]),
        "paper": _preset([MNIST, HARDER], [0, 1, 2]),
    },
    "cifar10": {
        "quick": _confused(CIFAR, [0]),
        "paper": _confused(TABLE_1, [0, 1, 2]),
    },
    "human": {
        "quick": _human(MORE, [0]),
        "paper": _human(TABLE_1, [0, 1, 2]),
    },
}


def _choice_plan(preset, records):
    return [
        source_target.settings(**case, **CHOICE, alpha_lr=alpha_lr)
        for case, alpha_lr in itertools.product(preset["choose_on"], ALPHA_LRS)
    ]


def _plan(preset, records):
    chosen = ALPHA_LR
    if records:
        best = max(records, key=lambda run: run["metrics"]["held_out"])
        chosen = best["settings"]["alpha_lr"]
    return [
        source_target.settings(
            **case,
            method=method,
            alpha_lr=chosen if method == "soseleto" else None,
            seed=seed,
        )
        for seed, case, method in itertools.product(
            preset["seeds"], preset["cases"], preset["methods"]
        )
    ]


def _case(settings):
    low, high = settings["inputs"]
    return (
        f"{settings['dataset']}, {render.noise(settings)}, "
        f"inputs in [{low}, {high}]"
    )


def _describe(settings):
    return (
        f"{_case(settings)}, {source_target.method(settings)}, "
        f"seed {settings['seed']}"
    )


def _report(records):
    choices = [r for r in records if r["settings"]["held_out"]]
    records = [r for r in records if not r["settings"]["held_out"]]
    rows = {"labels": _case, "method": source_target.method}
    columns = {
        "test (clean)": "test",
        "best epoch's test": "best_test",
        "AUROC: alpha": "auroc_alpha",
        "AUROC: cumulative": "auroc_cumulative",
        "AUROC: history": "auroc_history",
        "AUROC: loss": "auroc_loss",
        "AUROC: out of sample": "auroc_out_of_sample",
        "noise left: alpha": "noise_left_alpha",
        "noise left: cumulative": "noise_left_cumulative",
        "noise left: history": "noise_left",
    }
    sizes = sorted(
        {
            (s["dataset"], s["num_source"], s["num_target"], s["epochs"])
            for s in (record["settings"] for record in records)
        }
    )
    notes = [
        *(
            f"{name}: {source:,} noisy and {target:,} clean examples, "
            f"{epochs} epochs."
            for name, source, target, epochs in sizes
        ),
        "All methods make the same steps on the same source and target "
        "batches; fine-tuning adds a fifth of them at a tenth of the rate.",
        "AUROC: how well a score finds wrong labels. History: the probability "
        "of the given label over training (ExampleHistory or LabelCurves). "
        "Loss: that of the trained network. Out of sample: that of networks "
        "trained without the example. Noise left: share of wrong labels "
        "in the better half by a score, over that in all.",
        "The best epoch is told by the test data: it shows how much stopping "
        "early could win.",
        *map(_choice_note, choices),
        render.NOTES[0],
    ]
    return render.Report(
        "Noisy labels and a small clean set",
        render.table(records, rows, columns),
        notes,
        _figure(records),
    )


def _choice_note(record):
    settings = record["settings"]
    return (
        f"Choice of alpha_lr, {_case(settings)}, seed {settings['seed']}: "
        f"{settings['alpha_lr']:g} has "
        f"{record['metrics']['held_out']:.3f} on held-out noisy labels."
    )


def _figure(records):
    """Bars of test accuracy: one panel a case, one bar a method."""
    tested = [record for record in records if "test" in record["metrics"]]
    cases = render.group(tested, _case)
    figure = Figure(figsize=(7, 0.6 + 1.9 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, (name, members) in zip(panels, cases.items()):
        methods = render.group(members, source_target.method)
        values = [
            render.spread([run["metrics"]["test"] for run in runs])
            for runs in methods.values()
        ]
        mean, deviation = np.array(values).T
        colors = render.COLORS[: len(mean)]
        axes.barh(
            list(methods), mean, xerr=np.nan_to_num(deviation), color=colors
        )
        axes.invert_yaxis()
        axes.set_title(name, fontsize=10)
        axes.set_xlim(left=max(0.0, mean.min() - 0.1))
    panels[-1].set_xlabel("accuracy on clean test data")
    return figure


EXPERIMENTS = {
    name: runner.Experiment(
        f"soseleto_{name}",
        presets,
        stages=(_choice_plan, _plan),
        report=_report,
        run=source_target.run,
        describe=_describe,
        headline=("test", "auroc_alpha", "auroc_cumulative", "auroc_history"),
    )
    for name, presets in PRESETS.items()
}

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENTS[CHOSEN.value])
