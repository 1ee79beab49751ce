"""Does it matter when training stops? 100 epochs at one constant rate."""

import itertools

from benchmarks import render
from benchmarks import runner
from benchmarks import training

COMMON = {
    "network": "mlp",
    "batch_size": 256,
    "learning_rate": 0.01,
}
METHODS = ({"method": "sgd"}, training.bilevel(32))
# USPS has 7,291 training images: all of them.
SUBSETS = {"mnist": 10_000, "usps": None}
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
        for seed, dataset, noise, method in itertools.product(
            preset["seeds"], preset["datasets"], preset["noises"], METHODS
        )
    ]


def _report(records):
    rows = {
        "data": lambda s: s["dataset"],
        "noise": render.noise,
        "method": render.method,
    }
    columns = {
        "test (clean)": "test",
        "train (given)": "train_given",
        "gap": "gap",
        "suspects' AUROC": "suspect_auroc",
        "best epoch's test": "best_test",
    }
    epochs = records[0]["settings"]["epochs"]
    return render.Report(
        f"{epochs} epochs at a constant rate of {COMMON['learning_rate']}",
        render.table(records, rows, columns),
        list(render.NOTES),
        render.curves(
            records,
            lambda s: s["dataset"],
            render.noise,
            kinds=("test", "train_given"),
        ),
    )


EXPERIMENT = runner.Experiment(
    "long_training", PRESETS, stages=(_plan,), report=_report
)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
