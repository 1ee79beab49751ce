"""Does `suggest_settings` choose well?

The tool sees noisy labels only. Afterwards each setting is trained on all of
them and tested on clean data, which tells what the choice was worth.
"""

import keras

import keras_bilevel as kb
from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import tasks
from keras_bilevel import tuners
from keras_bilevel.tuners import settings as tool

_SGD = {"optimizer": "sgd", "learning_rate": 0.02, "epochs": 60}
_ADAM = {"optimizer": "adam", "learning_rate": 0.001, "epochs": 60}
_USPS = {"dataset": "usps", "num_train": 3_000}
CASES = [
    {**_SGD, "noise": 0.5},
    {**_SGD, "noise": 0.0},
    {**_ADAM, "noise": 0.5},
    {**_ADAM, "noise": 0.2},
    {**_USPS, **_SGD, "noise": 0.5, "epochs": 30},
    {**_USPS, **_ADAM, "noise": 0.2, "epochs": 10},
]
PRESETS = {
    "quick": {"cases": CASES[:4], "seeds": [0]},
    "paper": {"cases": CASES, "seeds": [0, 1, 2]},
}


def _plan(preset, records):
    return plans.grid(
        [{**plans.noisy(method=None), **case} for case in preset["cases"]],
        plans.each("seed", preset["seeds"]),
    )


def run(settings, data_dir=None, verbose=0):
    """Asks the tool, then trains with each setting and tests on clean data."""
    task = tasks.make(settings, data_dir)
    data = task.x, task.y_given
    options = {name: settings[name] for name in ("batch_size", "epochs")}
    is_sgd = settings["optimizer"] == "sgd"
    momentum = settings["momentum"] if is_sgd else None

    def make_model():
        shape = task.x.shape[1:]
        model = networks.build(settings["network"], shape, task.num_classes)
        return networks.compiled(model, settings["learning_rate"], momentum)

    seed = settings["seed"]
    found = tuners.suggest_settings(
        make_model, *data, **options, seed=1_000 + seed, verbose=verbose
    )
    test = {}
    for setting in tool.all_settings(settings["batch_size"]):
        keras.utils.set_random_seed(seed)
        model = setting.apply(make_model())
        model.fit(*data, **options, verbose=verbose)
        test[setting.name] = networks.accuracy(model, *task.evaluation)
    return {
        "suggested": test[found.name],
        "plain": test["plain"],
        "best": max(test.values()),
        "worst": min(test.values()),
        "name": found.name,
        "test": test,
        "held_out": dict(zip(found.table["setting"], found.table["held_out"])),
    }


def _case(settings):
    return f"{render.data_and_noise(settings)}, {settings['optimizer']}"


def _names(records):
    return "; ".join(render.values(records, "name"))


COLUMNS = {
    "suggested": "suggested",
    "plain": "plain",
    "best of all": "best",
    "worst of all": "worst",
}


def _report(records):
    rows = {"data": _case}
    columns = {**COLUMNS, "what was suggested": _names}
    notes = [
        render.NOTES[0],
        "Clean test accuracy of a setting trained on all noisy labels. Best "
        "and worst of the six settings are those of each seed, chosen on clean "
        "test data, which nobody has.",
        f"keras_bilevel {kb.__version__}; SGD with rate 0.02 and momentum 0.9, "
        "Adam with rate 0.001; batches of 128, so 8 or 32 shards.",
    ]
    return render.Report(
        "What suggest_settings chooses on noisy labels, tested on clean ones",
        render.table(records, rows, columns),
        notes,
        _figure(records),
    )


def _figure(records):
    found = {
        words: render.values_by(records, _case, metric).values()
        for words, metric in COLUMNS.items()
    }
    names = list(render.group(records, _case))
    return figures.dots(names, found, "clean test accuracy", "Do^v")


EXPERIMENT = runner.Experiment(
    "suggested_settings", PRESETS, [_plan], _report, run
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
