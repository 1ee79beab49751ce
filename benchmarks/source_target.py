"""Trains on a noisy source set and a small clean target set, in several ways.

All methods make the same steps: each takes the same source batch, the same
target batch or both, in the same order.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import tasks
from benchmarks import training

# Everything that determines a run. An experiment changes some of it.
DEFAULTS = {
    "dataset": "mnist",
    "num_source": 10_000,
    "num_target": 500,
    "noise_kind": "confusion",
    "noise": 0.4,
    "label_set": None,  # The labels of CIFAR-10N, for human noise.
    "held_out": 0.0,  # Share of the noisy data to evaluate on instead.
    "inputs": [0, 1],  # Range of the pixels.
    "network": "mlp",
    "method": "soseleto",
    "source_size": 128,
    "target_size": 32,
    "epochs": 30,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "alpha_lr": None,  # Of "soseleto".
    "every": 1,  # Epochs between two evaluations.
    "seed": 0,
}
METHODS = {
    "noisy": "noisy labels only",
    "clean": "clean set only",
    "mixed": "both, mixed",
    "finetune": "noisy, then fine-tuned on clean",
    "reweight": "Learning to Reweight",
    "soseleto": "SOSELETO",
    "folds": "noisy labels only, cross-validated",
}
# Fine-tuning adds a fifth of the steps at a tenth of the rate.
FINETUNE = {"epochs": 0.2, "rate": 0.1}
FOLDS = 4


def settings(**changes):
    """Returns the settings of a run: `DEFAULTS` with changes."""
    return tasks.changed(DEFAULTS, changes)


def method(settings):
    """Returns the method of a run in words."""
    text = METHODS[settings["method"]]
    if settings["method"] == "soseleto":
        text += f", alpha_lr {settings['alpha_lr']:g}"
    return text


def run(settings, data_dir=None, verbose=0):
    """Trains one network.

    Returns:
        Dict of metrics:

        - `test` (or `held_out`), `train_given`, `train_clean`: accuracies
          after the last epoch, training ones on the source set.
        - `auroc_<score>`: how well a score finds wrong source labels:
          `loss` (the trained network's probability of the given label),
          `history` (its mean over training: `ExampleHistory`, or
          `LabelCurves` for plain Keras), `alpha`, `cumulative`.
        - `noise_left`: share of wrong labels in the half of the source set
          with the best `history`, over that in all of it;
          `noise_left_alpha`, `noise_left_cumulative`: by these scores.
        - `curves`, `epochs`, `steps`.

        Of `folds`, which has no one network: `auroc_out_of_sample` and
        `noise_left_out_of_sample`, by the probability of the given label that
        a network predicts which was trained without the example.
    """
    keras.utils.set_random_seed(settings["seed"])
    task, target = _split(settings, data_dir)
    if settings["method"] == "folds":
        return _cross_validate(task, settings, verbose)
    batches = kb.data.source_target_batches(
        (task.x, task.y_given),
        target,
        settings["source_size"],
        settings["target_size"],
        seed=settings["seed"],
    )
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
    options = {"callbacks": [curves], "verbose": verbose}
    if settings["method"] in ("reweight", "soseleto"):
        steps, scores = _fit_bilevel(network, batches, task, settings, options)
    else:
        steps, scores = _fit_plain(network, batches, settings, options)
    scores.setdefault("history", curves.given_probability)
    scores["loss"] = _given_probability(network, task)
    evaluated = "held_out" if settings["held_out"] else "test"
    return {
        **training.accuracies(curves.curves, evaluated),
        **{f"auroc_{k}": _auroc(task.wrong, v) for k, v in scores.items()},
        "noise_left": _noise_left(task.wrong, scores["history"]),
        **{
            f"noise_left_{name}": _noise_left(task.wrong, scores[name])
            for name in ("alpha", "cumulative")
            if name in scores
        },
        "steps": steps,
        "epochs": settings["epochs"],
    }


def _split(settings, data_dir):
    """Returns the noisy `Task` and the clean target set."""
    count = settings["num_source"] + settings["num_target"]
    task = tasks.make({**settings, "num_train": count}, data_dir)
    return tasks.split_clean(task, settings["num_target"], settings["seed"])


def _fit_bilevel(network, batches, task, settings, options):
    weighting = kb.weighting.LearningToReweight()
    if settings["method"] == "soseleto":
        weighting = kb.weighting.Soseleto(
            len(task.x), alpha_lr=settings["alpha_lr"]
        )
    model = kb.BilevelModel(network, weighting=weighting)
    _compile(model, settings, settings["learning_rate"])
    history = kb.callbacks.ExampleHistory(len(task.x))
    callbacks = [*options.pop("callbacks"), history]
    model.fit(
        batches, epochs=settings["epochs"], callbacks=callbacks, **options
    )
    scores = {"history": history.given_probability}
    if settings["method"] == "soseleto":
        scores["alpha"] = weighting.example_weights
        scores["cumulative"] = weighting.example_scores
    return int(model.optimizer.iterations), scores


def _fit_plain(network, batches, settings, options):
    parts = {
        "noisy": lambda source, target: source[:2],
        "clean": lambda source, target: target,
        "mixed": lambda source, target: tuple(
            tf.concat([s, t], 0) for s, t in zip(source, target)
        ),
    }
    first = "noisy" if settings["method"] == "finetune" else settings["method"]
    _compile(network, settings, settings["learning_rate"])
    epochs = settings["epochs"]
    network.fit(
        batches.map(parts[first]), epochs=epochs, shuffle=False, **options
    )
    if settings["method"] == "finetune":
        more = math.ceil(FINETUNE["epochs"] * epochs)
        _compile(
            network, settings, settings["learning_rate"] * FINETUNE["rate"]
        )
        network.fit(
            batches.map(parts["clean"]),
            initial_epoch=epochs,
            epochs=epochs + more,
            shuffle=False,
            **options,
        )
    return int(network.optimizer.iterations), {}


def _cross_validate(task, settings, verbose):
    """Scores each source label by a network that has not seen it.

    The score is cleanlab's "self-confidence" (Northcutt et al., 2021).
    """
    scores = np.empty(len(task.x))
    folds = StratifiedKFold(
        FOLDS, shuffle=True, random_state=settings["seed"]
    ).split(task.x, task.y_given)
    for rows, rest in folds:
        network = networks.build(
            settings["network"], task.x.shape[1:], task.num_classes
        )
        _compile(network, settings, settings["learning_rate"])
        network.fit(
            task.x[rows],
            task.y_given[rows],
            batch_size=settings["source_size"],
            epochs=settings["epochs"],
            verbose=verbose,
        )
        scores[rest] = _given_probability(network, task.take(rest))
    return {
        "auroc_out_of_sample": _auroc(task.wrong, scores),
        "noise_left_out_of_sample": _noise_left(task.wrong, scores),
        "steps": FOLDS * int(network.optimizer.iterations),
        "epochs": settings["epochs"],
    }


def _compile(model, settings, rate):
    model.compile(
        keras.optimizers.SGD(rate, momentum=settings["momentum"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _given_probability(network, task):
    logits = network.predict(task.x, batch_size=1024, verbose=0)
    probability = tf.nn.softmax(logits).numpy()
    return probability[np.arange(len(task.x)), task.y_given]


def _auroc(wrong, scores):
    seen = np.isfinite(scores)
    if len(np.unique(wrong[seen])) < 2:
        return None
    return float(roc_auc_score(wrong[seen], -scores[seen]))


def _noise_left(wrong, scores):
    if not wrong.any():
        return None
    kept = kb.report.keep_mask(scores, keep=0.5)
    return float(wrong[kept].mean() / wrong.mean())
