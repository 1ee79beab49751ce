"""Does `suggest_settings` choose well?

The tool sees noisy labels only. Afterwards each setting is trained on all of
them and tested on clean data, which tells what the choice was worth.
"""

import keras
import numpy as np
from matplotlib.figure import Figure

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
CASES = {
    "digits": [
        {**_SGD, "noise": 0.5},
        {**_SGD, "noise": 0.0},
        {**_ADAM, "noise": 0.5},
        {**_ADAM, "noise": 0.2},
    ],
    "usps": [
        {**_USPS, **_SGD, "noise": 0.5, "epochs": 30},
        {**_USPS, **_ADAM, "noise": 0.2, "epochs": 10},
    ],
}
PRESETS = {
    "quick": {"data": ["digits"], "seeds": [0]},
    "paper": {"data": list(CASES), "seeds": [0, 1, 2]},
}


def _plan(preset, records):
    cases = [case for name in preset["data"] for case in CASES[name]]
    return plans.grid(
        [{**plans.noisy(method=None), **case} for case in cases],
        plans.each("seed", preset["seeds"]),
    )


def run(settings, data_dir=None, verbose=0):
    """Asks the tool, then trains with each setting and tests on clean data."""
    task = tasks.make(settings, data_dir)
    data = task.x, task.y_given
    options = {name: settings[name] for name in ("batch_size", "epochs")}

    def make_model():
        shape = task.x.shape[1:]
        model = networks.build(settings["network"], shape, task.num_classes)
        return _compiled(model, settings)

    seed = settings["seed"]
    found = tuners.suggest_settings(
        make_model, *data, **options, seed=1_000 + seed, verbose=verbose
    )
    test = {}
    for setting in tool.all_settings(settings["batch_size"]):
        keras.utils.set_random_seed(seed)
        model = setting.apply(make_model())
        model.fit(*data, **options, verbose=verbose)
        logs = model.evaluate(*task.evaluation, verbose=0, return_dict=True)
        test[setting.name] = logs["accuracy"]
    return {
        "suggested": test[found.name],
        "plain": test["plain"],
        "best": max(test.values()),
        "worst": min(test.values()),
        "name": found.name,
        "test": test,
        "held_out": dict(zip(found.table["setting"], found.table["held_out"])),
    }


def _compiled(model, settings):
    rate = settings["learning_rate"]
    if settings["optimizer"] == "sgd":
        optimizer = keras.optimizers.SGD(rate, settings["momentum"])
    else:
        optimizer = keras.optimizers.Adam(rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def _case(settings):
    return (
        f"{settings['dataset']}, {render.noise(settings)}, "
        f"{settings['optimizer']}"
    )


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
    cases = render.group(records, _case)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(cases))
    for number, (words, metric) in enumerate(COLUMNS.items()):
        means = [np.mean(render.values(c, metric)) for c in cases.values()]
        marker = "Do^v"[number]
        color = figures.COLORS[number]
        axes.plot(means, places, marker, label=words, color=color, alpha=0.8)
    axes.set_yticks(places, list(cases))
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set(xlabel="clean test accuracy")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


EXPERIMENT = runner.Experiment(
    "suggested_settings", PRESETS, [_plan], _report, run
)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
