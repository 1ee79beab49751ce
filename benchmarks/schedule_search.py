"""Searches for a schedule R(t), on a clean validation set apart from test."""

import functools
import tempfile
import time

import keras
import keras_tuner
import numpy as np

import keras_bilevel as kb
from benchmarks import methods
from benchmarks import tasks
from benchmarks import training

SPACES = {
    "S2E": kb.schedules.S2ESchedule,
    "Co-teaching": kb.schedules.CoTeachingSchedule,
    "RBF": kb.schedules.RBFSchedule,
    "MLP": kb.schedules.MLPSchedule,
    "random monotone": kb.schedules.RandomMonotoneSchedule,
}


def run(settings, data_dir=None, verbose=0):
    """Searches in one of `SPACES` with one of `ALGORITHMS`.

    Returns:
        Dict of metrics: `best`, the best value of the objective, validation
        accuracy after the last epoch; `best_so_far`, a list; `values`, those
        of all trials; `curves`, validation accuracy after every epoch of each
        trial; `schedule`, the best one; and `trial_epochs`, how many epochs
        were trained in all.
    """
    task = tasks.make(settings, data_dir)
    hypermodel = _HyperModel(training.Trainer(settings, task))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tuner = ALGORITHMS[settings["algorithm"]](
            hypermodel,
            settings,
            objective=keras_tuner.Objective("val_accuracy", "max"),
            seed=settings["seed"],
            directory=folder,
        )
        tuner.search(verbose=verbose)
        seconds = time.perf_counter() - start
        (best,) = tuner.oracle.get_best_trials(1)
        schedule = _schedule(settings, best.hyperparameters)
    curves = hypermodel.curves
    values = [curve[-1] for curve in curves]
    return {
        "best": max(values),
        "values": values,
        "best_so_far": np.maximum.accumulate(values).tolist(),
        "curves": [np.round(curve, 5).tolist() for curve in curves],
        "schedule": {"name": type(schedule).__name__, **schedule.get_config()},
        "trial_epochs": sum(map(len, curves)),
        "search_seconds": round(seconds, 1),
    }


def _schedule(settings, hp):
    space = SPACES[settings["space"]]
    return space.from_hyperparameters(hp, epochs=settings["epochs"])


class _HyperModel(kb.tuners.ReusedModel):
    """Trains by Co-teaching with the schedule of a trial."""

    def __init__(self, trainer):
        def build():
            keras.utils.set_random_seed(trainer.seed)
            return methods.selection_model(trainer, None)

        schedule = functools.partial(_schedule, trainer.settings)
        super().__init__(build, schedule)
        self.trainer = trainer
        self.curves = []

    def fit(
        self, hp, model, verbose=0, callbacks=(), epochs=None, initial_epoch=0
    ):
        # Hyperband's trials end early; the schedule is for all epochs.
        end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: _stop(model, epoch + 1 == epochs)
        )
        trainer = self.trainer.changed(verbose=verbose)
        # All trials see the same batches.
        keras.utils.set_random_seed(trainer.seed)
        log = trainer.fit(
            model,
            *trainer.arrays,
            callbacks=[*callbacks, end],
            validation_data=trainer.task.clean,
            validation_batch_size=1024,
            initial_epoch=initial_epoch,
        )
        self.curves.append(log["val_accuracy"])
        return {"val_accuracy": log["val_accuracy"][-1]}


def _stop(model, now):
    if now:
        model.stop_training = True


def _s2e(hypermodel, settings, **options):
    return kb.tuners.S2ETuner(
        hypermodel,
        max_trials=settings["trials"],
        epochs=settings["epochs"],
        **options,
    )


def _keras_tuner(tuner, hypermodel, settings, **options):
    return tuner(hypermodel, max_trials=settings["trials"], **options)


def _hyperband(hypermodel, settings, **options):
    """One round of brackets: it decides itself on the number of trials."""
    return keras_tuner.Hyperband(
        hypermodel, max_epochs=settings["epochs"], **options
    )


def _paper(update):
    return functools.partial(_s2e, update=update, candidates=1)


ALGORITHMS = {
    "S2E": _s2e,
    "S2E, Newton as in the paper": _paper("newton"),
    "S2E, cubic": _paper("cubic"),
    "S2E, natural gradient": _paper("natural"),
    "S2E, gradient": _paper("gradient"),
    "S2E, the hopeless stopped": functools.partial(_s2e, stop_below=0.5),
    "random": functools.partial(_keras_tuner, keras_tuner.RandomSearch),
    "Bayesian optimization": functools.partial(
        _keras_tuner, keras_tuner.BayesianOptimization
    ),
    "Hyperband": _hyperband,
}
