"""How large should a shard be, for little and for much noise?

One super-batch of 256 examples, cut into few large shards or many small ones,
100 epochs at one constant rate; SGD on the same batches beside it.
"""

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

COMMON = {
    "dataset": "mnist",
    "num_train": 10_000,
    "batch_size": 256,
    "learning_rate": 0.01,
    "every": 5,
}
PRESETS = {
    "quick": {
        "noises": [0.5],
        "num_shards": [4, 32],
        "epochs": 20,
        "seeds": [0],
    },
    "paper": {
        "noises": [0.0, 0.5],
        "num_shards": [4, 8],  # `long_training` has 32, on the same seeds.
        "epochs": 100,
        "seeds": [0, 1, 2],
    },
}


def _plan(preset, records):
    return plans.runs(
        plans.noisy,
        [{**COMMON, "epochs": preset["epochs"]}],
        plans.each("seed", preset["seeds"]),
        plans.each("noise", preset["noises"]),
        [{"method": "sgd"}, *map(plans.bilevel, preset["num_shards"])],
    )


def _report(records):
    rows = {"noise": render.noise, "method": render.method}
    columns = {
        **render.columns("test", "train_given"),
        "effective shards": "effective_shards",
        "suspects' AUROC": "suspect_auroc",
    }
    return render.Report(
        f"Shard sizes, {records[0]['settings']['epochs']} epochs of MNIST at "
        f"a constant rate of {COMMON['learning_rate']}",
        render.table(records, rows, columns),
        render.NOTES[:3],
        figures.curves(records, kinds=("test",)),
    )


EXPERIMENT = runner.Experiment("shard_size", PRESETS, [_plan], _report)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
