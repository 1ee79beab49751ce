"""What somebody would pick instead of this package's methods.

Each untuned, near the values of its paper: one function, given the `Trainer` of
a run.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

import keras_bilevel as kb
from benchmarks import methods
from benchmarks import networks
from benchmarks.methods import Outcome

SMOOTHING = 0.1
DROPOUT = 0.5
MIXUP_ALPHA = 8.0  # For wrong labels, in the paper's Table 2.
GCE_Q = 0.7


def _one_hot(run):
    """Batches with one-hot labels."""
    classes = run.task.num_classes
    return methods.shuffled(run).map(lambda x, y: (x, tf.one_hot(y, classes)))


def _of_one_hot(run, **options):
    """Returns a loss of one-hot labels, which the run's curves then have."""
    to_one_hot = np.eye(run.task.num_classes, dtype="float32").__getitem__
    for curves in run.callbacks:
        curves.y_given = to_one_hot(curves.y_given)
        curves.y_clean = to_one_hot(curves.y_clean)
        x, y = curves.test_data
        curves.test_data = x, to_one_hot(y)
    return keras.losses.CategoricalCrossentropy(from_logits=True, **options)


def _with_loss(make):
    """Returns the method that trains on another loss, `run -> loss`."""
    return lambda run: methods.trained(run, run.network(), make(run))


def _label_smoothing(run):
    loss = _of_one_hot(run, label_smoothing=SMOOTHING)
    return methods.trained(run, run.network(), loss, _one_hot(run))


def _dropout(run):
    *hidden, logits = run.network().layers
    layers = [*hidden, keras.layers.Dropout(DROPOUT), logits]
    network = keras.Sequential([keras.Input(run.task.x.shape[1:]), *layers])
    return methods.trained(run, network)


def _mixup(run):
    mix = keras.layers.MixUp(MIXUP_ALPHA, seed=run.seed)
    batches = _one_hot(run).map(lambda x, y: _mixed(mix, x, y))
    return methods.trained(run, run.network(), _of_one_hot(run), batches)


def _mixed(mix, x, y):
    mixed = mix({"images": x, "labels": y})
    return mixed["images"], mixed["labels"]


def _bilevel_mixup(run):
    """Mixes within each shard: no training shard sees a validation shard."""
    settings, classes = run.settings, run.task.num_classes
    shards = settings["num_shards"]
    size = settings["batch_size"] // shards
    batches = kb.data.stratified_batches(
        run.arrays, num_shards=shards, shard_size=size, ids=True, seed=run.seed
    )

    def mixed(x, y, weights, ids):
        parts = x, tf.one_hot(y, classes)
        order = tf.argsort(tf.random.uniform((shards, size), seed=run.seed))
        order = tf.reshape(order + size * tf.range(shards)[:, None], [-1])
        gamma = tf.random.gamma((2, len(x)), MIXUP_ALPHA, seed=run.seed)
        share = gamma[0] / (gamma[0] + gamma[1])  # Of a beta distribution.
        x, y = (_blend(share, t, tf.gather(t, order)) for t in parts)
        return x, y, weights, ids

    model = networks.bilevel(run.network(), shards)
    return methods.trained(run, model, _of_one_hot(run), batches.map(mixed))


def _blend(share, one, other):
    share = tf.reshape(share, [-1] + [1] * (len(one.shape) - 1))
    return share * one + (1 - share) * other


def _with_softmax(run, *layers):
    return keras.Sequential([run.network(), keras.layers.Softmax(), *layers])


def _gce(run):
    loss = keras.losses.CategoricalGeneralizedCrossEntropy(GCE_Q)
    return methods.trained(run, _with_softmax(run), loss)


def _known_flips(run):
    task = run.task
    flips = confusion_matrix(task.y_clean, task.y_given, normalize="true")
    return kb.losses.ForwardCorrection(flips, from_logits=True)


def _first(run):
    """Returns predictions of a network that was trained plainly before."""
    first = methods.trained(run.changed(callbacks=()), run.network())
    return methods.predict(first.network, run.task)


def _estimated_flips(run):
    flips = kb.losses.estimate_transition(_first(run))
    return kb.losses.ForwardCorrection(flips, from_logits=True)


def _f_correction(run):
    """The same, for `s2e`: its records drew the weights in this order."""
    loss = _estimated_flips(run)
    return methods.trained(run, run.network(), loss)


def _noise_layer(run, layer):
    loss = keras.losses.SparseCategoricalCrossentropy()
    return methods.trained(run, _with_softmax(run, layer), loss)


def _goldberger(run):
    predicted = _first(run).argmax(-1)
    classes = np.arange(run.task.num_classes)
    confusion = confusion_matrix(predicted, run.task.y_given, labels=classes)
    # No class is without an example.
    return _noise_layer(run, kb.layers.NoiseAdaptation(confusion + 1))


def _sukhbaatar(run):
    return _noise_layer(run, kb.layers.LinearNoise())


def _early_learning(run):
    rule = kb.selection.EarlyLearning()
    model = run.compiled(kb.SelectionModel(run.network(), rule))
    log = run.fit(model, *run.arrays)
    score = methods.of_given(rule.targets, run.task)
    steps = methods.steps_of(model)
    return Outcome(steps, model.models[0], log, {"memory": score})


def _early_stopping(run):
    stop = keras.callbacks.EarlyStopping(
        "val_accuracy",
        patience=run.settings["epochs"],
        restore_best_weights=True,
    )
    return methods.trained(
        run,
        run.network(),
        callbacks=[stop],
        validation_data=run.task.validation,
        validation_batch_size=1024,
    )


def _prune(run):
    """Retrains without what networks that did not see it call another class."""
    folds = methods.METHODS["folds"](run.changed(callbacks=()))
    score = folds.scores["out_of_sample"]
    kept = np.flatnonzero(folds.agrees)
    last = run.changed(task=run.task.take(kept))
    outcome = methods.trained(last, run.network())
    outcome.scores["out_of_sample"] = score
    return outcome


METHODS = {
    "label_smoothing": _label_smoothing,
    "dropout": _dropout,
    "mixup": _mixup,
    "bilevel_mixup": _bilevel_mixup,
    "gce": _gce,
    "bootstrapping_soft": _with_loss(
        lambda run: kb.losses.Bootstrapping(0.95, from_logits=True)
    ),
    "bootstrapping_hard": _with_loss(
        lambda run: kb.losses.Bootstrapping(0.8, hard=True, from_logits=True)
    ),
    "forward_given": _with_loss(_known_flips),
    "forward_estimated": _with_loss(_estimated_flips),
    "f_correction": _f_correction,
    "goldberger": _goldberger,
    "sukhbaatar": _sukhbaatar,
    "early_learning": _early_learning,
    "early_stopping": _early_stopping,
    "prune": _prune,
}
