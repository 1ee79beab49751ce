"""What do sample selection and the start of a trial cost?

Steps: `SelectionModel.fit` over plain `fit` of one network on the same batch,
in turn, as in `speed`. Trials: the seconds from one trial to the next of a
search whose trials train for one step, with a model built anew and with
`kb.tuners.ReusedModel`.
"""

import itertools
import tempfile
import time

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import render
from benchmarks import runner
from benchmarks import speed

RULES = {
    "self-paced": (kb.selection.SelfPaced, 1),
    "Co-teaching": (kb.selection.CoTeaching, 2),
    "Co-teaching+": (kb.selection.CoTeachingPlus, 2),
}
STEPS = {"cnn": 8, "cnn_bn": 8, "mlp": 100}
BATCH_SIZE = 128
PRESETS = {
    "quick": {"pairs": 5, "trials": 5, "seeds": [0]},
    "paper": {"pairs": 15, "trials": 15, "seeds": [0]},
}


def _plan(preset, records):
    steps = [
        {
            "kind": "step",
            "network": network,
            "rule": rule,
            "pairs": preset["pairs"],
        }
        for network, rule in itertools.product(STEPS, RULES)
    ]
    trials = [
        {"kind": "trial", "network": "mlp", "trials": preset["trials"]},
    ]
    return [
        {**settings, "seed": seed}
        for seed, settings in itertools.product(preset["seeds"], steps + trials)
    ]


def _run(settings, data_dir, verbose):
    del data_dir, verbose  # It makes its own data.
    keras.utils.set_random_seed(settings["seed"])
    if settings["kind"] == "step":
        return _measure_step(settings)
    return _measure_trial(settings)


def _network(settings):
    shape = speed.SHAPES[settings["network"]]
    return networks.build(settings["network"], shape, 10)


def _measure_step(settings):
    shape = speed.SHAPES[settings["network"]]
    steps = STEPS[settings["network"]]
    examples = speed.batch(BATCH_SIZE, shape)
    dataset = tf.data.Dataset.from_tensors(examples).cache().repeat(steps)
    plain = speed.compiled(_network(settings), {})
    rule, count = RULES[settings["rule"]]
    schedule = kb.schedules.CoTeachingSchedule(0.5, t_k=1)
    model = kb.SelectionModel(
        [_network(settings) for _ in range(count)], rule(), schedule
    )
    speed.compiled(model, {})
    # Epoch 1 of every call: half of the batch is kept.
    return speed.compare(
        lambda: model.fit(dataset, initial_epoch=1, epochs=2, verbose=0),
        lambda: plain.fit(
            dataset, initial_epoch=1, epochs=2, verbose=0, shuffle=False
        ),
        settings["pairs"],
        per=steps,
    )


def _measure_trial(settings):
    data = speed.batch(BATCH_SIZE, speed.SHAPES[settings["network"]])

    def compiled(schedule=None):
        pair = [_network(settings), _network(settings)]
        rule = kb.selection.CoTeaching()
        return speed.compiled(kb.SelectionModel(pair, rule, schedule), {})

    def schedule(hp):
        return kb.schedules.S2ESchedule.from_hyperparameters(hp, epochs=1)

    hypermodels = {
        "new": lambda hp: compiled(schedule(hp)),
        "reused": kb.tuners.ReusedModel(compiled, schedule),
    }
    return {
        f"{name}_seconds": _seconds_per_trial(
            hypermodel, data, settings["trials"]
        )
        for name, hypermodel in hypermodels.items()
    }


def _seconds_per_trial(hypermodel, data, trials):
    """Median time between the starts of two trials."""
    starts = []

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            starts.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        tuner = kb.tuners.S2ETuner(
            hypermodel,
            keras_tuner.Objective("loss", "min"),
            max_trials=trials + 1,
            seed=0,
            directory=folder,
        )
        tuner.search(
            *data, batch_size=BATCH_SIZE, callbacks=[Clock()], verbose=0
        )
    return float(np.median(np.diff(starts)))


def _describe(settings):
    if settings["kind"] == "trial":
        return f"start of a trial, {settings['network']}"
    return f"step of {settings['network']}, {settings['rule']}"


def _report(records):
    columns = {
        "processor time": "cpu_ratio",
        "wall time": "wall_ratio",
        "ms": "ms",
        "plain ms": "plain_ms",
        "new model, s": "new_seconds",
        "reused model, s": "reused_seconds",
    }
    notes = [
        "Step: SelectionModel.fit, half of a batch of 128 kept, over plain fit "
        "of one network on the same batch. Processor time: median of the "
        "pairs' ratios. Wall time: ratio of the minima. In turn, one process.",
        "Trial: median seconds from one trial's start to the next in a "
        "search whose trials train for one step.",
    ]
    return render.Report(
        "Cost of sample selection and of a trial",
        render.table(records, {"what": _describe}, columns),
        notes,
        speed.figure(
            [r for r in records if "cpu_ratio" in r["metrics"]], _describe
        ),
    )


EXPERIMENT = runner.Experiment(
    "speed_selection",
    PRESETS,
    stages=(_plan,),
    report=_report,
    run=_run,
)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
