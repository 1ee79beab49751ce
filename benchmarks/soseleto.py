"""Do weights from a small clean set help against wrong labels, and find them?

`--experiment=noise`: MNIST. `--experiment=cifar10`: the paper's Table 1, random
confusion and Caffe's network. `--experiment=human`: CIFAR-10N, whose wrong
labels people have given.
"""

from absl import flags

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

CHOSEN = flags.DEFINE_enum(
    "experiment", "noise", ["noise", "cifar10", "human"], "Which labels."
)

METHODS = {
    "noisy": "noisy labels only",
    "clean": "clean set only",
    "mixed": "both, mixed",
    "finetune": "noisy, then fine-tuned on clean",
    "reweight": "Learning to Reweight",
    "soseleto": "SOSELETO",
    "folds": "noisy labels only, cross-validated",
}
# Cross-validation tells wrong labels, for four trainings; no network is left.
TRAINING = [name for name in METHODS if name != "folds"]
# Plain SGD and alpha_lr = 1 as in the paper's section 4.
MNIST = {"momentum": 0.0, "every": 5}
# Symmetric noise and inputs in [-1, 1] are harder to tell.
HARDER = {**MNIST, "inputs": [-1, 1], "noise_kind": "symmetric"}
# A rate at which plain SGD learns noisy labels by heart within these epochs, as
# in the paper's Table 1, on noisy labels that were held out.
CIFAR = {
    "dataset": "cifar10",
    "num_source": 5_000,
    "num_target": 500,
    "network": "caffe_quick",
    "inputs": [-1, 1],
    "learning_rate": 0.03,
    "every": 5,
}
TABLE_1 = {**CIFAR, "num_source": 45_000, "num_target": 5_000, "epochs": 60}
# Fewer visits to more images: nothing is learnt by heart.
MORE = {
    **CIFAR,
    "num_source": 10_000,
    "num_target": 1_000,
    "learning_rate": 0.01,
    "epochs": 20,
}
ALPHA_LR = 1.0
# Where images are harder, the best of these on held-out noisy labels, with
# the data of another seed.
ALPHA_LRS = [1.0, 3.0, 10.0]


def _presets(quick, paper, choose_on=None, methods=TRAINING):
    """`choose_on` is the place of the case that `alpha_lr` is chosen on."""
    common = {"choose_on": choose_on, "methods": methods}
    return {
        "quick": {"cases": quick, "seeds": [0], **common},
        "paper": {"cases": paper, "seeds": [0, 1, 2], **common},
    }


def _confused(case):
    return [{**case, "noise": noise} for noise in (0.3, 0.4, 0.5)]


def _human(case):
    return [{**case, **plans.HUMAN}]


PRESETS = {
    "noise": _presets([MNIST, HARDER], [MNIST, HARDER]),
    "cifar10": _presets(_confused(CIFAR), _confused(TABLE_1), choose_on=1),
    "human": _presets(_human(MORE), _human(TABLE_1), 0, list(METHODS)),
}


def _choice_plan(preset, records):
    place = preset["choose_on"]
    return plans.runs(
        plans.source_target,
        [{"held_out": 0.2, "seed": 100}],
        [] if place is None else [preset["cases"][place]],
        plans.each("alpha_lr", ALPHA_LRS),
    )


def _plan(preset, records):
    chosen = ALPHA_LR
    if records:
        chosen = render.best(records, "held_out")["settings"]["alpha_lr"]
    methods = [
        {"method": name, "alpha_lr": chosen if name == "soseleto" else None}
        for name in preset["methods"]
    ]
    seeds = plans.each("seed", preset["seeds"])
    return plans.runs(plans.source_target, seeds, preset["cases"], methods)


def _case(settings):
    low, high = settings["inputs"]
    labels = render.noise(settings)
    return f"{settings['dataset']}, {labels}, inputs in [{low}, {high}]"


def _method(settings):
    text = METHODS[settings["method"]]
    if settings["method"] == "soseleto":
        text += f", alpha_lr {settings['alpha_lr']:g}"
    return text


def _report(records):
    choices, records = render.held_out(records)
    columns = {
        **render.columns("test", "best_test"),
        "AUROC: alpha": "auroc_alpha",
        "AUROC: cumulative": "auroc_cumulative",
        "AUROC: history": "auroc_history",
        "AUROC: loss": "auroc_loss",
        "AUROC: out of sample": "auroc_out_of_sample",
        "noise left: alpha": "noise_left_alpha",
        "noise left: cumulative": "noise_left_cumulative",
        "noise left: history": "noise_left",
    }
    notes = [
        *sorted(render.group(records, _sizes)),
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
        render.table(records, {"labels": _case, "method": _method}, columns),
        notes,
        _figure(records),
    )


def _sizes(settings):
    source, target = settings["num_source"], settings["num_target"]
    return (
        f"{settings['dataset']}: {source:,} noisy and {target:,} clean "
        f"examples, {settings['epochs']} epochs."
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
    figure, panels = figures.stack(tested, _case, 7, 2.2)
    for axes, name, members in panels:
        found = render.values_by(members, _method, "test")
        mean = figures.means(axes, found)
        axes.set_title(name, fontsize=10)
        axes.set_xlim(left=max(0.0, mean.min() - 0.1))
    axes.set_xlabel("accuracy on clean test data")
    return figure


EXPERIMENTS = {
    name: runner.Experiment(
        f"soseleto_{name}", presets, [_choice_plan, _plan], _report
    )
    for name, presets in PRESETS.items()
}

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENTS[CHOSEN.value])
