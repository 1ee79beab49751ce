"""Wrong labels, learnt by heart by SGD and not by Deep Bilevel Learning.

Without flags: half the labels of scikit-learn's digits are wrong, nothing is
downloaded, and both methods are done in about a minute.
"""

import pandas as pd
from absl import flags

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import tasks
from benchmarks import training

# What suits a data set, where no flag says otherwise.
_GREY = {"learning_rate": 0.02, "epochs": 50}
_COLOUR = {"network": "cnn", "learning_rate": 0.02, "epochs": 30}
_SUBSET = {"num_train": 10_000}
SUITED = {
    "digits": {"learning_rate": 0.05, "epochs": 100, "every": 4},
    "mnist": {**_GREY, **_SUBSET},
    "cifar10": {**_COLOUR, **_SUBSET},
    "cifar100": {**_COLOUR, **_SUBSET},
    "usps": _GREY,
}
DATASET = flags.DEFINE_enum("dataset", "digits", SUITED, "What to learn.")
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
AVERAGE = flags.DEFINE_bool(
    "average", True, "Evaluate averages of the weights, of both methods."
)
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Of both methods.")


def _plan(preset, records):
    """The settings of all runs, from the flags."""
    name, kind = DATASET.value, NOISE_KIND.value
    shard_size = SHARD_SIZE.value or (4 if name == "digits" else 8)
    flagged = {"epochs": EPOCHS.value, "learning_rate": LEARNING_RATE.value}
    common = {
        "dataset": name,
        "noise_kind": kind,
        "noise": None if kind in ("human", "uniform") else NOISE.value,
        "label_set": LABEL_SET.value if kind == "human" else None,
        "batch_size": NUM_SHARDS.value * shard_size,
        **SUITED[name],
        **{key: value for key, value in flagged.items() if value is not None},
    }
    methods = [{"method": "sgd"}, plans.bilevel(NUM_SHARDS.value)]
    chosen = [m for m in methods if METHOD.value in ("both", m["method"])]
    seeds = plans.each("seed", preset["seeds"])
    average = {"ema_momentum": 0.995} if AVERAGE.value else {}
    runs = plans.runs(plans.noisy, [common], seeds, chosen)
    return [{**settings, **average} for settings in runs]


def _run(settings, data_dir, verbose):
    progress = None if verbose else _progress(settings)
    trained = training.train(settings, data_dir, verbose, progress)
    _write_suspects(trained, _suspects_path(settings))
    return trained.metrics


def _progress(settings):
    """Returns a function that prints some lines in the course of a run."""
    interval = max(settings["epochs"] // 10, 1)
    due = [interval]

    def show(curves):
        if curves["epoch"] and curves["epoch"][-1] >= due[-1]:
            epoch, given, test = (
                curves[name][-1] for name in ("epoch", "train_given", "test")
            )
            due.append(epoch + interval)
            accuracies = f"train (noisy) {given:.3f}, test {test:.3f}"
            print(f"    epoch {epoch:3d}: {accuracies}", flush=True)

    return show


def _suspects_path(settings):
    name = (
        f"suspects_{settings['dataset']}_{settings['method']}_"
        f"seed{settings['seed']}.csv"
    )
    return runner.folder("quickstart") / name


def _write_suspects(trained, path):
    """Writes all training examples, the most suspect label first."""
    examples = pd.DataFrame(
        {
            "id": trained.task.ids,
            "given": trained.task.y_given,
            "true": trained.task.y_clean,
            "given_probability": trained.given_probability,
        }
    )
    examples.sort_values("given_probability", kind="stable").to_csv(
        path, index=False, float_format="%.4f", na_rep="nan"
    )


def _report(records):
    columns = render.columns(*render.HEADERS)
    paths = ", ".join(str(_suspects_path(r["settings"])) for r in records)
    first = records[0]["settings"]
    notes = [*render.NOTES, f"Suspect labels, most suspect first: {paths}"]
    if "ema_momentum" in first:
        notes.append(
            "Accuracies are those of averaged weights (Keras' `use_ema`)."
        )
    return render.Report(
        f"{first['dataset']}, {render.noise(first)}",
        render.table(records, {"method": render.method}, columns),
        notes,
        figures.curves(records),
    )


EXPERIMENT = runner.Experiment(
    "quickstart",
    {"quick": {"seeds": [0]}, "paper": {"seeds": [0, 1, 2]}},
    [_plan],
    _report,
    _run,
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
