"""Searches for a schedule R(t), on a clean validation set apart from test."""

import tempfile
import time

import keras
import keras_tuner
import numpy as np

import keras_bilevel as kb
from benchmarks import selection

SPACES = {
    "S2E": kb.schedules.S2ESchedule,
    "Co-teaching": kb.schedules.CoTeachingSchedule,
    "RBF": kb.schedules.RBFSchedule,
    "MLP": kb.schedules.MLPSchedule,
    "random monotone": kb.schedules.RandomMonotoneSchedule,
}
OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")


def run(settings, data_dir=None, verbose=0):
    """Searches in one space with one algorithm.

    Args:
        settings: Dict of `selection.settings`, and `space`, one of `SPACES`,
            `algorithm`, one of `ALGORITHMS`, and `trials`.
        data_dir: See `datasets.load`.
        verbose: Of the search.

    Returns:
        Dict of metrics: `best`, the best value of the objective, validation
        accuracy after the last epoch; `best_so_far`, a list; `values`, those
        of all trials; `curves`, validation accuracy after every epoch of each
        trial; `schedule`, the best one; and `trial_epochs`, how many epochs
        were trained in all.
    """
    task, clean = selection.split(settings, data_dir)
    hypermodel = _HyperModel(settings, task, clean)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tuner = ALGORITHMS[settings["algorithm"]](
            hypermodel, settings, directory=folder
        )
        tuner.search(verbose=verbose)
        seconds = time.perf_counter() - start
        (best,) = tuner.oracle.get_best_trials(1)
        schedule = SPACES[settings["space"]].from_hyperparameters(
            best.hyperparameters, epochs=settings["epochs"]
        )
    curves = hypermodel.curves
    values = [curve[-1] for curve in curves]
    return {
        "best": max(values),
        "values": values,
        "best_so_far": [max(values[: i + 1]) for i in range(len(values))],
        "curves": [np.round(curve, 5).tolist() for curve in curves],
        "schedule": {"name": type(schedule).__name__, **schedule.get_config()},
        "trial_epochs": sum(map(len, curves)),
        "search_seconds": round(seconds, 1),
    }


class _HyperModel(kb.tuners.ReusedModel):
    """Trains by Co-teaching with the schedule of a trial."""

    def __init__(self, settings, task, clean):
        space = SPACES[settings["space"]]

        def build():
            keras.utils.set_random_seed(settings["seed"])
            return selection.selection_model(settings, task, None)

        super().__init__(
            build,
            lambda hp: space.from_hyperparameters(
                hp, epochs=settings["epochs"]
            ),
        )
        self.settings = settings
        self.task = task
        self.clean = clean
        self.curves = []

    def fit(
        self, hp, model, verbose=0, callbacks=(), epochs=None, initial_epoch=0
    ):
        # Hyperband's trials end early; the schedule is for all epochs.
        end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: _stop(model, epoch + 1 == epochs)
        )
        options = selection.options(self.settings, verbose, *callbacks, end)
        # All trials see the same batches.
        keras.utils.set_random_seed(self.settings["seed"])
        history = model.fit(
            self.task.x,
            self.task.y_given,
            batch_size=self.settings["batch_size"],
            validation_data=self.clean,
            validation_batch_size=1024,
            initial_epoch=initial_epoch,
            **options,
        )
        curve = history.history["val_accuracy"]
        self.curves.append(curve)
        return {"val_accuracy": curve[-1]}


def _stop(model, now):
    if now:
        model.stop_training = True


def _s2e(update="newton", **options):
    def make(hypermodel, settings, directory):
        return kb.tuners.S2ETuner(
            hypermodel,
            OBJECTIVE,
            max_trials=settings["trials"],
            update=update,
            epochs=settings["epochs"],
            seed=settings["seed"],
            directory=directory,
            **options,
        )

    return make


def _keras_tuner(tuner):
    def make(hypermodel, settings, directory):
        return tuner(
            hypermodel,
            OBJECTIVE,
            max_trials=settings["trials"],
            seed=settings["seed"],
            directory=directory,
        )

    return make


def _hyperband(hypermodel, settings, directory):
    """One round of brackets: it decides itself on the number of trials."""
    return keras_tuner.Hyperband(
        hypermodel,
        OBJECTIVE,
        max_epochs=settings["epochs"],
        seed=settings["seed"],
        directory=directory,
    )


ALGORITHMS = {
    "S2E": _s2e(),
    "S2E, Newton as in the paper": _s2e("newton", candidates=1),
    "S2E, cubic": _s2e("cubic", candidates=1),
    "S2E, natural gradient": _s2e("natural", candidates=1),
    "S2E, gradient": _s2e("gradient", candidates=1),
    "S2E, the hopeless stopped": _s2e(stop_below=0.5),
    "random": _keras_tuner(keras_tuner.RandomSearch),
    "Bayesian optimization": _keras_tuner(keras_tuner.BayesianOptimization),
    "Hyperband": _hyperband,
}
