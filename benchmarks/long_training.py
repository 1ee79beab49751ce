"""Does it matter when training stops? 100 epochs at one constant rate."""

import itertools

from absl import flags

from benchmarks import render
from benchmarks import runner
from benchmarks import training

CHOOSE = flags.DEFINE_bool(
    "choose",
    False,
    "Instead, compare shards on held-out noisy labels of USPS.",
)

COMMON = {
    "network": "mlp",
    "batch_size": 256,
    "learning_rate": 0.01,
}
# USPS has 7,291 training images: all of them.
SUBSETS = {"mnist": 10_000, "usps": None}
# For USPS also what `--choose` has the highest accuracy for: 128 (0.423, 0.430
# and 0.455 for 32, 64 and 128 shards; SGD 0.390).
CANDIDATES = (32, 64, 128)
CHOICE = {"dataset": "usps", "noise": 0.5, "held_out": 0.2, "seed": 100}
NUM_SHARDS = {"mnist": [32], "usps": [32, 128]}
PRESETS = {
    "quick": {
        "datasets": ["mnist"],
        "noises": [0.5],
        "epochs": 100,
        "every": 5,
        "seeds": [0],
    },
    "paper": {
        "datasets": ["mnist", "usps"],
        "noises": [0.0, 0.2, 0.5],
        "epochs": 100,
        "every": 5,
        "seeds": [0, 1, 2],
    },
}


def _plan(preset, records):
    return [
        training.settings(
            **COMMON,
            **method,
            dataset=dataset,
            num_train=SUBSETS[dataset],
            noise=noise,
            epochs=preset["epochs"],
            every=preset["every"],
            seed=seed,
        )
        for seed, noise, dataset in itertools.product(
            preset["seeds"], preset["noises"], preset["datasets"]
        )
        for method in _methods(dataset)
    ]


def _methods(dataset):
    shards = NUM_SHARDS[dataset]
    return [{"method": "sgd"}, *(training.bilevel(count) for count in shards)]


def _choice_plan(preset, records):
    methods = [{"method": "sgd"}, *map(training.bilevel, CANDIDATES)]
    return [
        training.settings(
            **COMMON,
            **CHOICE,
            **method,
            epochs=preset["epochs"],
            every=preset["every"],
        )
        for method in methods
    ]


def _choice_report(records):
    columns = {"held-out (noisy)": "held_out", "train (given)": "train_given"}
    return render.Report(
        "Shards for USPS, by accuracy on held-out noisy labels",
        render.table(records, {"method": render.method}, columns),
        ["After the last epoch, 20 % of the noisy data held out, seed 100."],
        render.rates(
            records,
            rows=lambda s: s["dataset"],
            columns=render.noise,
            lines=render.method,
            metric="held_out",
            ylabel="accuracy on held-out noisy labels",
        ),
    )


def _report(records):
    epochs = records[0]["settings"]["epochs"]
    return render.Report(
        f"{epochs} epochs at one constant rate",
        render.memorised(records),
        list(render.NOTES),
        render.curves(
            records,
            render.data_and_rate,
            render.noise,
            kinds=("test", "train_given"),
        ),
    )


EXPERIMENT = runner.Experiment(
    "long_training", PRESETS, stages=(_plan,), report=_report
)

CHOICE_EXPERIMENT = runner.Experiment(
    "long_training_choice",
    PRESETS,
    stages=(_choice_plan,),
    report=_choice_report,
)

if __name__ == "__main__":
    runner.main(lambda: CHOICE_EXPERIMENT if CHOOSE.value else EXPERIMENT)
