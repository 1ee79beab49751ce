"""One process of the tests that need several; see `processes`."""

import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from tests.distribute import runs

EPOCHS = 3


class Killed(keras.callbacks.Callback):
    """Ends the process as `kill -9` does, in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


def network():
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((runs.INPUTS,)),
            keras.layers.Dense(7, activation="tanh"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(runs.CLASSES),
        ]
    )


def train(strategy, folder, callbacks=()):
    """Trains with all that has to outlive a process; returns its outcome."""
    model = runs.compiled(
        strategy,
        lambda: kb.weighting.Soseleto(runs.FEW, alpha_lr=5.0),
        "adam",
        make=network,
    )
    history = kb.callbacks.ExampleHistory(runs.FEW)
    backup = keras.callbacks.BackupAndRestore(folder)
    # The seed of the order is drawn, as set_random_seed has it.
    fitted = model.fit(
        runs.source_target(runs.examples(runs.FEW), seed=None),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[history, backup, *callbacks],
    )
    last = {name: value[-1] for name, value in fitted.history.items()}
    seen = np.nan_to_num(history.given_probability)
    epochs = len(fitted.epoch)
    return runs.outcome(model, last, given_probability=seen, epochs=epochs)


def run_alike(strategy, folder, index):
    for name, run in runs.CASES.items():
        save(folder, name, index, run(strategy))
    text = message_of(lambda: unlike_seeds(strategy, index))
    save(folder, "unlike_seeds", index, {"message": text})
    text = message_of(lambda: stock(strategy))
    save(folder, "stock", index, {"message": text})


def run_killed(strategy, folder, index):
    whole = train(strategy, os.path.join(folder, f"whole_{index}"))
    save(folder, "whole", index, whole)
    dies = index == strategy.num_replicas_in_sync - 1
    backup = os.path.join(folder, f"backup_{index}")
    train(strategy, backup, [Killed()] if dies else [])


def run_resumed(strategy, folder, index):
    resumed = train(strategy, os.path.join(folder, f"backup_{index}"))
    save(folder, "resumed", index, resumed)


def unlike_seeds(strategy, index):
    model = runs.compiled(strategy, kb.weighting.LearningToReweight)
    model.fit(
        runs.source_target(runs.examples(runs.FEW), seed=index), verbose=0
    )


def stock(strategy):
    with strategy.scope():
        model = runs.network()
        model.compile("sgd", "mse")
    x, _ = runs.examples(runs.FEW)
    model.fit(x, x[:, : runs.CLASSES], batch_size=24, verbose=0)


def message_of(function):
    try:
        function()
    except Exception as error:
        return str(error)
    return "no error"


def save(folder, name, index, arrays):
    np.savez(os.path.join(folder, f"{name}_{index}.npz"), **arrays)


def main(folder, *scenarios):
    tf.config.experimental.enable_op_determinism()
    strategy, index = tf.distribute.get_strategy(), 0
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        index = strategy.cluster_resolver.task_id
    for scenario in scenarios:
        scenes = {
            "alike": run_alike,
            "killed": run_killed,
            "resumed": run_resumed,
        }
        scenes[scenario](strategy, folder, index)


if __name__ == "__main__":
    main(*sys.argv[1:])
