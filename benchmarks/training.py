"""Trains once on noisy labels, by any method, and measures what came of it."""

import dataclasses
import time

import keras
import numpy as np

import keras_bilevel as kb
from benchmarks import comparators
from benchmarks import measures
from benchmarks import methods
from benchmarks import networks
from benchmarks import tasks

METHODS = {**methods.METHODS, **comparators.METHODS}
CONSTANT_SHARE = 0.4  # Of the epochs, as in S2E: 80 of 200.


class Clock(keras.callbacks.Callback):
    """Adds up steps and processor time of all calls of `fit`.

    Epochs count as much as the median one: the first also compiles the step.
    """

    def __init__(self):
        super().__init__()
        self.seconds = 0.0
        self.steps = 0

    def on_train_begin(self, logs=None):
        self._epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self._epochs.append(time.process_time() - self._start)

    def on_train_end(self, logs=None):
        self.seconds += float(np.median(self._epochs)) * len(self._epochs)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Builds, compiles and fits the networks of one run.

    All methods of an experiment get the same optimizer, rate and number of
    epochs from it.
    """

    settings: dict  # See `plans`.
    task: tasks.Task
    callbacks: tuple = ()  # Of every call of `fit`.
    verbose: int = 0
    clock: Clock = dataclasses.field(default_factory=Clock)

    @property
    def seed(self):
        return self.settings["seed"]

    @property
    def batch_size(self):
        """The size of a batch of noisy examples."""
        return self.settings.get("source_size", self.settings.get("batch_size"))

    @property
    def arrays(self):
        """All noisy examples, for models that shuffle and batch arrays."""
        return self.task.x, self.task.y_given

    def changed(self, **changes):
        """Returns a trainer with other attributes."""
        return dataclasses.replace(self, **changes)

    def network(self):
        """Returns a fresh network."""
        return networks.build(
            self.settings["network"],
            self.task.x.shape[1:],
            self.task.num_classes,
        )

    def compiled(self, model, loss=None):
        """Compiles a model and returns it."""
        return networks.compiled(
            model,
            self.settings["learning_rate"],
            self.settings.get("momentum"),
            loss,
            **self._average(),
        )

    def _average(self):
        """Returns what lets the optimizer average the weights, if it is to."""
        momentum = self.settings.get("ema_momentum")
        return {"use_ema": True, "ema_momentum": momentum} if momentum else {}

    def all_callbacks(self):
        """Returns the callbacks of a call of `fit`."""
        schedule = keras.callbacks.LearningRateScheduler(
            lambda epoch: rate(self.settings, epoch)
        )
        # Callbacks after it see the averages at the end of an epoch.
        swap = [keras.callbacks.SwapEMAWeights(True)] * bool(self._average())
        return [schedule, self.clock, *swap, *self.callbacks]

    def fit(self, model, *data, callbacks=(), **options):
        """Fits a model to batches, or to arrays `x, y`; returns the log."""
        if len(data) == 1:
            options["shuffle"] = False  # Batches are shuffled.
        else:
            options["batch_size"] = self.batch_size
        return model.fit(
            *data,
            callbacks=[*self.all_callbacks(), *callbacks],
            verbose=self.verbose,
            **{"epochs": self.settings["epochs"], **options},
        ).history


def rate(settings, epoch):
    """Returns the learning rate of an epoch.

    SGD's is constant or decays. Adam's is constant and then falls to 0.
    """
    first = settings["learning_rate"]
    if "momentum" in settings:
        return first * settings.get("decay", 1.0) ** epoch
    epochs = settings["epochs"]
    left = (epochs - epoch) / (epochs - CONSTANT_SHARE * epochs)
    return first * min(1.0, left)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run leaves behind."""

    task: tasks.Task
    metrics: dict  # JSON values, see `measures`.
    # Of shape `(n,)`, low where a label is suspect: of `ExampleHistory` or,
    # for plain Keras, of `LabelCurves`.
    given_probability: np.ndarray


def run(settings, data_dir=None, verbose=0):
    """Trains as `train` does and returns the metrics only."""
    return train(settings, data_dir, verbose).metrics


def train(settings, data_dir=None, verbose=0, progress=None):
    """Trains once; the seed decides on the data, the weights and the order.

    `progress` is a function of the curves of `LabelCurves`, called after each
    epoch. Returns a `Trained`.
    """
    keras.utils.set_random_seed(settings["seed"])
    task = tasks.make(settings, data_dir)
    curves = kb.callbacks.LabelCurves(
        task.x, task.y_given, task.y_clean, task.evaluation, settings["every"]
    )
    callbacks = [curves]
    if progress is not None:
        show = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: progress(curves.curves)
        )
        callbacks.append(show)
    trainer = Trainer(settings, task, callbacks, verbose)
    outcome = METHODS[settings["method"]](trainer)
    found, history = measures.of_run(settings, task, curves, outcome)
    found["processor_seconds"] = round(trainer.clock.seconds, 3)
    found["all_steps"] = trainer.clock.steps
    return Trained(task, found, history)
