"""Trains one network on noisy labels, with plain SGD or Deep Bilevel."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import tasks

# Everything that determines a run. An experiment changes some of it.
DEFAULTS = {
    "dataset": "digits",
    "num_train": None,  # All of them.
    "noise_kind": "symmetric",
    "noise": 0.5,
    "label_set": None,  # The labels of CIFAR-10N, for human noise.
    "held_out": 0.0,  # Share of the noisy data to evaluate on instead.
    "inputs": [-1, 1],  # Range of the pixels.
    "network": "mlp",
    "method": "sgd",
    "batch_size": 128,  # All shards together.
    "num_shards": None,  # Of "bilevel".
    "num_validation_shards": None,  # Of "bilevel".
    "epochs": 30,
    "learning_rate": 0.01,
    "decay": 1.0,  # Of the rate, per epoch.
    "momentum": 0.9,
    "every": 1,  # Epochs between two evaluations.
    "seed": 0,
}


def settings(**changes):
    """Returns the settings of a run: `DEFAULTS` with changes."""
    return tasks.changed(DEFAULTS, changes)


def bilevel(num_shards, num_validation_shards=1):
    """Returns the changes that make a run one of Deep Bilevel Learning."""
    return {
        "method": "bilevel",
        "num_shards": num_shards,
        "num_validation_shards": num_validation_shards,
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run leaves behind.

    Attributes:
        task: The `tasks.Task`.
        metrics: Dict of JSON values, see `train`.
        given_probability: Array of shape `(n,)`, low where a label is suspect:
            of `ExampleHistory` for `bilevel`, of `LabelCurves` for `sgd`.
    """

    task: tasks.Task
    metrics: dict
    given_probability: np.ndarray


def run(settings, data_dir=None, verbose=0):
    """Trains as `train` does and returns the metrics only."""
    return train(settings, data_dir, verbose).metrics


def train(settings, data_dir=None, verbose=0, progress=None):
    """Trains one network.

    Both methods see each example about once per epoch, in batches of the
    same size, and never a smaller last one.

    Args:
        settings: Dict, see `DEFAULTS`.
        data_dir: See `datasets.load`.
        verbose: That of `fit`.
        progress: Function of a dict of curves as in `LabelCurves`, called
            after each epoch. Defaults to `None`.

    Returns:
        A `Trained`. Its metrics:

        - `test` (or `held_out`), `train_given`, `train_clean`: accuracies
          after the last epoch.
        - `gap`: `train_given - test`, as in the paper.
        - `best_test`, `best_epoch`: the best on the way. Nobody can pick it
          without clean data.
        - `suspect_auroc`: how well `given_probability` finds wrong labels.
        - `final_loss`; `ran_away`: whether it is not below chance, `log C`.
        - `effective_shards`, `negative_weights`: means over all epochs.
        - `epochs`, `steps`, and `curves` over the recorded epochs.
    """
    keras.utils.set_random_seed(settings["seed"])
    task = tasks.make(settings, data_dir)
    network = networks.build(
        settings["network"], task.x.shape[1:], task.num_classes
    )
    curves = kb.callbacks.LabelCurves(
        task.x,
        task.y_given,
        task.y_clean,
        task.evaluation,
        every=settings["every"],
    )
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch: settings["learning_rate"] * settings["decay"] ** epoch
    )
    callbacks = [curves, schedule]
    if progress is not None:
        callbacks.append(
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: progress(curves.curves)
            )
        )
    fit = {"sgd": _fit_sgd, "bilevel": _fit_bilevel}[settings["method"]]
    log, steps, probability = fit(
        network,
        task,
        settings,
        callbacks=callbacks,
        epochs=settings["epochs"],
        verbose=verbose,
    )
    if probability is None:
        probability = curves.given_probability
    evaluated = "held_out" if settings["held_out"] else "test"
    metrics = {
        **accuracies(curves.curves, evaluated),
        "suspect_auroc": _auroc(task.wrong, probability),
        **_losses(log, task.num_classes),
        **_weights(log),
        "epochs": settings["epochs"],
        "steps": steps,
    }
    return Trained(task, metrics, probability)


def _fit_sgd(network, task, settings, **options):
    _compile(network, settings)
    batches = _batches(task, settings["batch_size"], settings["seed"])
    log = network.fit(batches, shuffle=False, **options).history
    return log, int(network.optimizer.iterations), None


def _fit_bilevel(network, task, settings, callbacks, **options):
    weighting = kb.weighting.DeepBilevel(
        num_shards=settings["num_shards"],
        num_validation_shards=settings["num_validation_shards"],
    )
    model = kb.BilevelModel(network, weighting=weighting)
    _compile(model, settings)
    history = kb.callbacks.ExampleHistory(len(task.x))
    log = model.fit(
        task.x,
        task.y_given,
        batch_size=settings["batch_size"],
        callbacks=[*callbacks, history],
        **options,
    ).history
    steps = int(model.optimizer.iterations)
    return log, steps, history.given_probability


def _compile(model, settings):
    model.compile(
        keras.optimizers.SGD(
            settings["learning_rate"], momentum=settings["momentum"]
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _batches(task, batch_size, seed):
    """Shuffled batches of one size: what is left over differs each epoch."""
    x, y = tf.constant(task.x), tf.constant(task.y_given)
    ids = tf.data.Dataset.range(len(task.x)).shuffle(len(task.x), seed=seed)
    return ids.batch(batch_size, drop_remainder=True).map(
        lambda batch: (tf.gather(x, batch), tf.gather(y, batch))
    )


def accuracies(curves, evaluated):
    """Returns the accuracies after the last epoch, the best, and all.

    Args:
        curves: Dict of `LabelCurves`.
        evaluated: Name of what the curve `test` was evaluated on.
    """
    curves = {
        evaluated if name == "test" else name: values
        for name, values in curves.items()
    }
    best = int(np.argmax(curves[evaluated]))
    return {
        evaluated: curves[evaluated][-1],
        "train_given": curves["train_given"][-1],
        "train_clean": curves["train_clean"][-1],
        "gap": curves["train_given"][-1] - curves[evaluated][-1],
        f"best_{evaluated}": curves[evaluated][best],
        "best_epoch": curves["epoch"][best],
        "curves": {
            name: [round(value, 5) for value in values]
            for name, values in curves.items()
        },
    }


def _auroc(wrong, given_probability):
    """Returns `None` where there is nothing to find, or no finite score."""
    visited = np.isfinite(given_probability)
    if len(np.unique(wrong[visited])) < 2:
        return None
    return float(roc_auc_score(wrong[visited], -given_probability[visited]))


def _losses(log, num_classes):
    final = float(log["loss"][-1])
    # A network whose units died stays within rounding of chance.
    stable = final < 0.99 * math.log(num_classes)
    return {
        "final_loss": final if math.isfinite(final) else None,
        "ran_away": not stable,
    }


def _weights(log):
    return {
        name: float(np.mean(log[name]))
        for name in ("effective_shards", "negative_weights")
        if name in log
    }
