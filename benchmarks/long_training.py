"""Does it matter when training stops? 100 epochs at one constant rate."""

from absl import flags

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

CHOOSE = flags.DEFINE_bool(
    "choose", False, "Instead, compare shards on held-out noisy labels of USPS."
)

COMMON = {"batch_size": 256, "learning_rate": 0.01, "epochs": 100, "every": 5}
MNIST = {**COMMON, "dataset": "mnist", "num_train": 10_000}
USPS = {**COMMON, "dataset": "usps"}  # All 7,291 training images.
SGD = {"method": "sgd"}
# For USPS also what `--choose` has the highest accuracy for: 128 (0.423, 0.430
# and 0.455 for 32, 64 and 128 shards; SGD 0.390).
ON_MNIST = plans.grid([MNIST], [SGD, plans.bilevel(32)])
ON_USPS = plans.grid([USPS], [SGD, plans.bilevel(32), plans.bilevel(128)])
CANDIDATES = [SGD, *map(plans.bilevel, (32, 64, 128))]
PRESETS = {
    "quick": {"cases": ON_MNIST, "noises": [0.5], "seeds": [0]},
    "paper": {
        "cases": ON_MNIST + ON_USPS,
        "noises": [0.0, 0.2, 0.5],
        "seeds": [0, 1, 2],
    },
}


def _plan(preset, records):
    return plans.runs(
        plans.noisy,
        plans.each("seed", preset["seeds"]),
        plans.each("noise", preset["noises"]),
        preset["cases"],
    )


def _report(records):
    return render.Report(
        f"{COMMON['epochs']} epochs at one constant rate",
        render.memorised(records),
        render.NOTES,
        figures.curves(
            records, render.data_and_rate, kinds=("test", "train_given")
        ),
    )


def _choice_plan(preset, records):
    common = {**USPS, "held_out": 0.2, "seed": 100}
    return plans.runs(plans.noisy, [common], CANDIDATES)


def _choice_report(records):
    columns = {"held-out (noisy)": "held_out", "train (given)": "train_given"}
    return render.Report(
        "Shards for USPS, by accuracy on held-out noisy labels",
        render.table(records, {"method": render.method}, columns),
        ["After the last epoch, 20 % of the noisy data held out, seed 100."],
        figures.rates(
            records,
            rows="dataset",
            columns=render.noise,
            lines=render.method,
            metric="held_out",
        ),
    )


EXPERIMENT = runner.Experiment("long_training", PRESETS, [_plan], _report)
CHOICE_EXPERIMENT = runner.Experiment(
    "long_training_choice", PRESETS, [_choice_plan], _choice_report
)

if __name__ == "__main__":
    runner.main(lambda: CHOICE_EXPERIMENT if CHOOSE.value else EXPERIMENT)
