"""Wrong labels, learnt by heart by SGD and not by Deep Bilevel Learning.

Without flags: half the labels of scikit-learn's digits are wrong, nothing is
downloaded, and both methods are done in about a minute.
"""

import csv
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import datasets
from benchmarks import render
from benchmarks import runner
from benchmarks import tasks
from benchmarks import training

DATASET = flags.DEFINE_enum(
    "dataset", "digits", datasets.NAMES, "What to learn."
)
NOISE = flags.DEFINE_float("noise", 0.5, "Share of wrong labels.", 0.0, 1.0)
NOISE_KIND = flags.DEFINE_enum(
    "noise_kind", "symmetric", tasks.KINDS, "How labels go wrong."
)
LABEL_SET = flags.DEFINE_string(
    "label_set", "worse_label", "The labels of CIFAR-10N, for human noise."
)
METHOD = flags.DEFINE_enum(
    "method", "both", ["both", "sgd", "bilevel"], "How to train."
)
NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 32, "Shards per super-batch.", lower_bound=2
)
SHARD_SIZE = flags.DEFINE_integer(
    "shard_size", None, "Examples per shard.", lower_bound=1
)
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Of both methods.")

# What suits a data set, where no flag says otherwise.
SUITED = {
    "digits": {
        "network": "mlp",
        "learning_rate": 0.05,
        "epochs": 100,
        "every": 4,
    },
    "mnist": {"network": "mlp", "learning_rate": 0.02, "epochs": 50},
    "usps": {"network": "mlp", "learning_rate": 0.02, "epochs": 50},
    "cifar10": {"network": "cnn", "learning_rate": 0.02, "epochs": 30},
    "cifar100": {"network": "cnn", "learning_rate": 0.02, "epochs": 30},
}
SHARD_SIZES = {"digits": 4, "mnist": 8, "usps": 8, "cifar10": 8, "cifar100": 8}
SUBSETS = {"mnist": 10_000, "cifar10": 10_000, "cifar100": 10_000}


def _plan(preset, records):
    """The settings of all runs, from the flags."""
    name = DATASET.value
    shard_size = SHARD_SIZE.value or SHARD_SIZES[name]
    flagged = {"epochs": EPOCHS.value, "learning_rate": LEARNING_RATE.value}
    human = NOISE_KIND.value == "human"
    has_share = NOISE_KIND.value not in ("human", "uniform")
    common = {
        "dataset": name,
        "num_train": SUBSETS.get(name),
        "noise_kind": NOISE_KIND.value,
        "noise": NOISE.value if has_share else None,
        "label_set": LABEL_SET.value if human else None,
        "batch_size": NUM_SHARDS.value * shard_size,
        **SUITED[name],
        **{key: value for key, value in flagged.items() if value is not None},
    }
    methods = {
        "sgd": {"method": "sgd"},
        "bilevel": training.bilevel(NUM_SHARDS.value),
    }
    if METHOD.value != "both":
        methods = {METHOD.value: methods[METHOD.value]}
    return [
        training.settings(**common, **changes, seed=seed)
        for seed in preset["seeds"]
        for changes in methods.values()
    ]


def _run(settings, data_dir, verbose):
    progress = None if verbose else _progress(settings)
    trained = training.train(settings, data_dir, verbose, progress)
    _write_suspects(trained, _suspects_path(settings))
    return trained.metrics


def _progress(settings):
    """Returns a function that prints some lines in the course of a run."""
    interval = max(settings["epochs"] // 10, 1)
    shown = [0]

    def show(curves):
        if not curves["epoch"] or curves["epoch"][-1] < shown[-1] + interval:
            return
        shown.append(curves["epoch"][-1])
        print(
            f"    epoch {curves['epoch'][-1]:3d}: train (noisy) "
            f"{curves['train_given'][-1]:.3f}, test {curves['test'][-1]:.3f}",
            flush=True,
        )

    return show


def _suspects_path(settings):
    out = Path(runner.OUT.value or "out/quickstart")
    return out / (
        f"suspects_{settings['dataset']}_{settings['method']}_"
        f"seed{settings['seed']}.csv"
    )


def _write_suspects(trained, path):
    """Writes all training examples, the most suspect label first."""
    task, score = trained.task, trained.given_probability
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "given", "true", "given_probability"])
        for i in np.argsort(score, kind="stable"):
            row = task.ids[i], task.y_given[i], task.y_clean[i]
            writer.writerow([*row, f"{score[i]:.4f}"])


def _report(records):
    rows = {"method": render.method}
    columns = {
        "test (clean)": "test",
        "train (noisy)": "train_given",
        "gap": "gap",
        "suspects' AUROC": "suspect_auroc",
        "best epoch's test": "best_test",
    }
    notes = list(render.NOTES)
    paths = ", ".join(str(_suspects_path(r["settings"])) for r in records)
    notes.append(f"Suspect labels, most suspect first: {paths}")
    first = records[0]["settings"]
    return render.Report(
        f"{first['dataset']}, {render.noise(first)}",
        render.table(records, rows, columns),
        notes,
        render.curves(records, lambda s: s["dataset"], render.noise),
    )


EXPERIMENT = runner.Experiment(
    "quickstart",
    presets={"quick": {"seeds": [0]}, "paper": {"seeds": [0, 1, 2]}},
    stages=(_plan,),
    report=_report,
    run=_run,
)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
