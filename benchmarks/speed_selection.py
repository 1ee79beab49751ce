"""What do sample selection and the start of a trial cost?

Steps: `SelectionModel.fit` over plain `fit` of one network on the same batch,
see `costs`. Trials: the seconds from one trial to the next of a search whose
trials train for one step, with a model built anew and with
`kb.tuners.ReusedModel`.
"""

import tempfile
import time

import keras
import keras_tuner
import numpy as np

import keras_bilevel as kb
from benchmarks import costs
from benchmarks import plans
from benchmarks import runner

RULES = {
    "self-paced": (kb.selection.SelfPaced, 1),
    "Co-teaching": (kb.selection.CoTeaching, 2),
    "Co-teaching+": (kb.selection.CoTeachingPlus, 2),
}
BATCH_SIZE = 128
PRESETS = {
    "quick": {"pairs": 5, "trials": 5, "seeds": [0]},
    "paper": {"pairs": 15, "trials": 15, "seeds": [0]},
}


def _plan(preset):
    trial = {"kind": "trial", "network": "mlp", "trials": preset["trials"]}
    steps = plans.grid(
        [{"kind": "step", "pairs": preset["pairs"]}],
        plans.each("network", costs.STEPS),
        plans.each("rule", RULES),
    )
    return [*steps, trial]


def _model(settings, rule, schedule=None):
    rule, count = RULES[rule]
    pair = [costs.network(settings["network"]) for _ in range(count)]
    return costs.compiled(kb.SelectionModel(pair, rule(), schedule))


def _batch(settings):
    return costs.batch(BATCH_SIZE, costs.shape(settings["network"]))


def _step(settings):
    steps = costs.STEPS[settings["network"]]
    dataset = costs.repeated(_batch(settings), steps)
    plain = costs.model(settings["network"])
    schedule = kb.schedules.CoTeachingSchedule(0.5, t_k=1)
    model = _model(settings, settings["rule"], schedule)
    # Epoch 1 of every call: half of the batch is kept.
    options = {"initial_epoch": 1, "epochs": 2, "verbose": 0}
    return costs.compare(
        lambda: model.fit(dataset, **options),
        lambda: plain.fit(dataset, shuffle=False, **options),
        settings["pairs"],
        per=steps,
    )


def _trial(settings):
    def build(schedule=None):
        return _model(settings, "Co-teaching", schedule)

    def schedule(hp):
        return kb.schedules.S2ESchedule.from_hyperparameters(hp, epochs=1)

    new = _seconds_per_trial(lambda hp: build(schedule(hp)), settings)
    reused = kb.tuners.ReusedModel(build, schedule)
    return {
        "new_seconds": new,
        "reused_seconds": _seconds_per_trial(reused, settings),
    }


def _seconds_per_trial(hypermodel, settings):
    """Median time between the starts of two trials."""
    starts = []
    clock = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: starts.append(time.perf_counter())
    )
    with tempfile.TemporaryDirectory() as folder:
        tuner = kb.tuners.S2ETuner(
            hypermodel,
            keras_tuner.Objective("loss", "min"),
            max_trials=settings["trials"] + 1,
            seed=0,
            directory=folder,
        )
        tuner.search(
            *_batch(settings),
            batch_size=BATCH_SIZE,
            callbacks=[clock],
            verbose=0,
        )
    return float(np.median(np.diff(starts)))


def _describe(settings):
    if settings["kind"] == "trial":
        return f"start of a trial, {settings['network']}"
    return f"step of {settings['network']}, {settings['rule']}"


REPORT = costs.report(
    "Cost of sample selection and of a trial",
    _describe,
    {"new model, s": "new_seconds", "reused model, s": "reused_seconds"},
    [
        "Step: SelectionModel.fit, half of a batch of 128 kept, over plain fit "
        f"of one network on the same batch. {costs.PAIRS} In turn, one "
        "process.",
        "Trial: median seconds from one trial's start to the next in a "
        "search whose trials train for one step.",
    ],
)
EXPERIMENT = costs.experiment(
    "speed_selection", PRESETS, _plan, {"step": _step, "trial": _trial}, REPORT
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
