"""How large should a shard be, for little and for much noise?

One super-batch of 256 examples, cut into few large shards or many small ones,
100 epochs at one constant rate; SGD on the same batches beside it.
"""

import itertools

from benchmarks import render
from benchmarks import runner
from benchmarks import training

COMMON = {
    "dataset": "mnist",
    "num_train": 10_000,
    "network": "mlp",
    "batch_size": 256,
    "learning_rate": 0.01,
}
PRESETS = {
    "quick": {
        "noises": [0.5],
        "num_shards": [4, 32],
        "epochs": 20,
        "every": 5,
        "seeds": [0],
    },
    "paper": {
        "noises": [0.0, 0.5],
        "num_shards": [4, 8],  # `long_training` has 32, on the same seeds.
        "epochs": 100,
        "every": 5,
        "seeds": [0, 1, 2],
    },
}


def _plan(preset, records):
    methods = [{"method": "sgd"}]
    methods += [training.bilevel(shards) for shards in preset["num_shards"]]
    return [
        training.settings(
            **COMMON,
            **method,
            noise=noise,
            epochs=preset["epochs"],
            every=preset["every"],
            seed=seed,
        )
        for seed, noise, method in itertools.product(
            preset["seeds"], preset["noises"], methods
        )
    ]


def _report(records):
    rows = {"noise": render.noise, "method": render.method}
    columns = {
        "test (clean)": "test",
        "train (given)": "train_given",
        "effective shards": "effective_shards",
        "suspects' AUROC": "suspect_auroc",
    }
    settings = records[0]["settings"]
    return render.Report(
        f"Shard sizes, {settings['epochs']} epochs of MNIST at a constant "
        f"rate of {settings['learning_rate']}",
        render.table(records, rows, columns),
        list(render.NOTES[:3]),
        render.curves(
            records,
            lambda s: s["dataset"],
            render.noise,
            kinds=("test",),
        ),
    )


EXPERIMENT = runner.Experiment(
    "shard_size", PRESETS, stages=(_plan,), report=_report
)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
