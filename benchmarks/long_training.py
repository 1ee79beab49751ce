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
# USPS has 7,291 training images: all of them.
SUBSETS = {"mnist": 10_000, "usps": None}
# Of 32, 64 and 128 shards, 128 had the highest accuracy on held-out noisy
# labels of USPS, half of them wrong, on seed 100 (0.423, 0.430, 0.455; SGD
# 0.390).
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
