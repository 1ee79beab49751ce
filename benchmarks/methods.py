"""The table of methods: how each trains, given the `Trainer` of a run."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from sklearn.model_selection import StratifiedKFold

import keras_bilevel as kb

RULES = {
    "decoupling": kb.selection.Decoupling,
    "self_paced": kb.selection.SelfPaced,
    "co_teaching": kb.selection.CoTeaching,
    "co_teaching_plus": kb.selection.CoTeachingPlus,
}
# The share of epochs in which Co-teaching+ is Co-teaching: its authors' code.
WARM_UP = {"cifar10": 0.1, "cifar100": 0.025}
# Fine-tuning adds a fifth of the steps at a tenth of the rate.
FINETUNE = {"epochs": 0.2, "rate": 0.1}
FOLDS = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method leaves behind."""

    steps: int  # Of the optimizer.
    # Whose softmax is the probability of the given labels, if one has it.
    network: keras.Model = None
    log: dict = None  # What `fit` has logged.
    # Arrays of shape `(n,)`: a low score makes a given label suspect.
    scores: dict = dataclasses.field(default_factory=dict)
    # Which given labels networks that have not seen them predict, of "folds".
    agrees: np.ndarray = None
    # The share of right labels among those that were learnt from, each epoch.
    precision: np.ndarray = None


def steps_of(model):
    return int(model.optimizer.iterations)


# Batches. Of one size: what is left over differs from epoch to epoch.


def _drawn(run):
    """Batches of noisy examples, shuffled by `tf.data`."""
    x, y = tf.constant(run.task.x), tf.constant(run.task.y_given)
    ids = tf.data.Dataset.range(len(x)).shuffle(len(x), seed=run.seed)
    return ids.batch(run.batch_size, drop_remainder=True).map(
        lambda batch: (tf.gather(x, batch), tf.gather(y, batch))
    )


def shuffled(run):
    """Batches of noisy examples, as the models of the package see them."""
    examples = run.task.x, run.task.y_given
    batches = kb.data.shuffled_batches(examples, run.batch_size, seed=run.seed)
    return batches.map(lambda x, y, sample_weight, ids: (x, y))


def pairs(run):
    """Batches of noisy and of clean examples."""
    clean = run.task.clean
    size = run.settings.get("target_size", run.batch_size)
    return kb.data.source_target_batches(
        (run.task.x, run.task.y_given),
        clean,
        run.batch_size,
        min(size, len(clean[0])),
        seed=run.seed,
    )


def only_source(source, target):
    return source[:2]


def only_target(source, target):
    return target


def _both(source, target):
    return tuple(tf.concat([s, t], 0) for s, t in zip(source, target))


# Methods.


def _plain(batches):
    """Returns the method that trains plain Keras on some batches."""

    def method(run):
        network = run.compiled(run.network())
        log = run.fit(network, batches(run))
        return Outcome(steps_of(network), network, log)

    return method


def _finetune(run):
    """Noisy labels first, then the clean set alone."""
    batches, network = pairs(run), run.compiled(run.network())
    run.fit(network, batches.map(only_source))
    epochs = run.settings["epochs"]
    rate = run.settings["learning_rate"] * FINETUNE["rate"]
    slow = run.changed(settings={**run.settings, "learning_rate": rate})
    slow.fit(
        slow.compiled(network),
        batches.map(only_target),
        initial_epoch=epochs,
        epochs=epochs + math.ceil(FINETUNE["epochs"] * epochs),
    )
    return Outcome(steps_of(network), network)


def _bilevel(run):
    """Deep Bilevel Learning, without a clean set."""
    weighting = kb.weighting.DeepBilevel(
        num_shards=run.settings["num_shards"],
        num_validation_shards=run.settings["num_validation_shards"],
        **run.settings.get("weighting", {}),
    )
    names = {"stratify_by", "validation_ratio"} & run.settings.keys()
    options = {name: run.settings[name] for name in names}
    return _weighted(run, weighting, *run.arrays, **options)


def _reweight(run):
    return _weighted(run, kb.weighting.LearningToReweight(), pairs(run))


def _soseleto(run):
    alpha_lr = run.settings["alpha_lr"]
    weighting = kb.weighting.Soseleto(len(run.task.x), alpha_lr=alpha_lr)
    outcome = _weighted(run, weighting, pairs(run))
    outcome.scores["alpha"] = weighting.example_weights
    outcome.scores["cumulative"] = weighting.example_scores
    return outcome


def _weighted(run, weighting, *data, **options):
    network = run.network()
    model = run.compiled(kb.BilevelModel(network, weighting, **options))
    history = kb.callbacks.ExampleHistory(len(run.task.x))
    log = run.fit(model, *data, callbacks=[history])
    scores = {"history": history.given_probability}
    return Outcome(steps_of(model), network, log, scores)


def _folds(run):
    """Scores each label by a network that has not seen it.

    The score is cleanlab's "self-confidence" (Northcutt et al., 2021).
    """
    task, scores = run.task, np.empty(len(run.task.x))
    agrees = np.empty(len(task.x), bool)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=run.seed)
    for rows, rest in folds.split(task.x, task.y_given):
        part = run.changed(task=task.take(rows), callbacks=())
        network = part.compiled(part.network())
        part.fit(network, *part.arrays)
        probability = _predict(network, task.take(rest))
        given = task.y_given[rest]
        scores[rest] = probability[np.arange(len(rest)), given]
        agrees[rest] = probability.argmax(-1) == given
    return Outcome(
        FOLDS * steps_of(network),
        scores={"out_of_sample": scores},
        agrees=agrees,
    )


def given_probability(network, task):
    """Returns a network's probability of each given label."""
    probability = _predict(network, task)
    return probability[np.arange(len(task.x)), task.y_given]


def accuracy(network, x, y):
    """Returns the share of right classes."""
    predicted = network.predict(x, batch_size=1024, verbose=0)
    return float(np.mean(predicted.argmax(-1) == y))


def _predict(network, task):
    logits = network.predict(task.x, batch_size=1024, verbose=0)
    return tf.nn.softmax(logits).numpy()


def _f_correction(run):
    """Forward correction (Patrini et al., 2017): two trainings."""
    first = _plain(shuffled)(run.changed(callbacks=())).network
    confusion = tf.constant(
        kb.losses.estimate_transition(_predict(first, run.task)), "float32"
    )

    def forward_loss(y, logits):
        given = tf.matmul(tf.nn.softmax(logits), confusion)
        return keras.losses.sparse_categorical_crossentropy(y, given)

    second = run.compiled(run.network(), forward_loss)
    run.fit(second, shuffled(run))
    return Outcome(steps_of(second))


def _select(run):
    """Learns from the examples that a rule and R(t) select."""
    model = selection_model(run, schedule_of(run.settings))
    history = kb.callbacks.SelectionHistory(len(run.task.x))
    run.fit(model, *run.arrays, callbacks=[history])
    precision = kb.report.label_precision(history, run.task.wrong)
    return Outcome(steps_of(model), model.models[0], precision=precision)


def selection_model(run, schedule):
    """Returns the compiled `kb.SelectionModel` of a run."""
    rule = RULES[run.settings["method"]]
    options = {}
    if rule is kb.selection.CoTeachingPlus:
        share = WARM_UP.get(run.settings["dataset"], 0.0)
        options["warm_up"] = round(share * run.settings["epochs"])
    rule = rule(**options)
    pair = [run.network() for _ in range(rule.num_networks or 1)]
    return run.compiled(kb.SelectionModel(pair, rule, schedule))


def schedule_of(settings):
    """Returns the `kb.schedules.Schedule` of a run, or `None`."""
    if settings["schedule"] is None:
        return None
    arguments = dict(settings["schedule"])
    return getattr(kb.schedules, arguments.pop("name"))(**arguments)


METHODS = {
    "sgd": _plain(_drawn),
    "bilevel": _bilevel,
    "noisy": _plain(lambda run: pairs(run).map(only_source)),
    "clean": _plain(lambda run: pairs(run).map(only_target)),
    "mixed": _plain(lambda run: pairs(run).map(_both)),
    "finetune": _finetune,
    "reweight": _reweight,
    "soseleto": _soseleto,
    "folds": _folds,
    "standard": _plain(shuffled),
    "f_correction": _f_correction,
    **dict.fromkeys(RULES, _select),
}
