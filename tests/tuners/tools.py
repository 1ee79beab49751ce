"""Objectives over S2E's space, and a tuner that trains nothing."""

import types

import keras_tuner
import numpy as np

import keras_bilevel as kb
from keras_bilevel.tuners.curves import curves

EPOCHS = 30
WANTED = 1 - 0.45 * np.minimum(np.arange(EPOCHS) / 15, 1)


def objective(direction):
    return keras_tuner.Objective("distance", direction)


OBJECTIVE = objective("min")


def distance(hp):
    """How far a trial's schedule is from a wanted one."""
    schedule = kb.schedules.S2ESchedule.from_hyperparameters(hp, EPOCHS)
    x = np.concatenate([schedule.alpha, schedule.beta.ravel()])
    return float(np.sqrt(np.mean((curves(x[None], EPOCHS) - WANTED) ** 2)))


class DistanceTuner(kb.tuners.S2ETuner):
    """Scores schedules at once; trials in `failing` fail."""

    failing = ()
    sign = 1

    def __init__(self, **options):
        super().__init__(**options)
        self.epochs = []  # How many each trial had.

    def run_trial(self, trial, **kwargs):
        rate = trial.hyperparameters.Float("rate", 1e-3, 1e-1, sampling="log")
        if trial.trial_id in self.failing:
            raise keras_tuner.errors.FailedTrialError("as it should")
        value = self.sign * (distance(trial.hyperparameters) + 1e-3 * rate)
        model = types.SimpleNamespace(stop_training=False)
        for epoch in range(EPOCHS):
            self.on_epoch_end(trial, model, epoch, {"distance": value})
            if model.stop_training:
                break
        self.epochs.append(epoch + 1)
        return value


def tuner(directory, **options):
    options = {"objective": OBJECTIVE, "max_trials": 12, "seed": 3} | options
    return DistanceTuner(directory=str(directory), **options)


def values_of(oracle):
    """What was tried, in order."""
    trials = [oracle.trials[name] for name in oracle.start_order]
    return [trial.hyperparameters.values for trial in trials]
