"""Does it matter when training stops? 100 epochs at one constant rate."""

import itertools

from benchmarks import render
from benchmarks import runner
from benchmarks import training

COMMON = {
    "network": "mlp",
    "batch_size": 256,
}
METHODS = ({"method": "sgd"}, training.bilevel(32))
# USPS has 7,291 training images: all of them. With a third of MNIST's pixels
# its first layer moves as far at three times the rate.
CASES = (
    {"dataset": "mnist", "num_train": 10_000, "learning_rate": 0.01},
    {"dataset": "usps", "num_train": None, "learning_rate": 0.01},
    {"dataset": "usps", "num_train": None, "learning_rate": 0.03},
)
PRESETS = {
    "quick": {
        "cases": CASES[:1],
        "noises": [0.5],
        "epochs": 100,
        "every": 5,
        "seeds": [0],
    },
    "paper": {
        "cases": CASES,
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
            **case,
            **method,
            noise=noise,
            epochs=preset["epochs"],
            every=preset["every"],
            seed=seed,
        )
        for seed, noise, case, method in itertools.product(
            preset["seeds"], preset["noises"], preset["cases"], METHODS
        )
    ]


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

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
