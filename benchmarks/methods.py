"""The table of methods: how each trains, given the `Trainer` of a run."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

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
    size, seed = run.batch_size, run.seed
    batches = kb.data.shuffled_batches(run.arrays, size, seed=seed)
    return batches.map(lambda x, y, sample_weight, ids: (x, y))


def pairs(run):
    """Batches of noisy and of clean examples."""
    clean = run.task.clean
    size = run.settings.get("target_size", run.batch_size)
    return kb.data.source_target_batches(
        run.arrays,
        clean,
        run.batch_size,
        min(size, len(clean[0])),
        seed=run.seed,
    )


def only_source(source, target):
    return source[:2]


def only_target(source, target):
    return target


def mixed(source, target):
    return tuple(tf.concat([s, t], 0) for s, t in zip(source, target))


# Methods.


def trained(run, model, loss=None, batches=None, **options):
    """Trains a model, by default on all noisy examples, shuffled."""
    batches = shuffled(run) if batches is None else batches
    log = run.fit(run.compiled(model, loss), batches, **options)
    return Outcome(steps_of(model), model, log)


def _plain(batches):
    """Returns the method that trains plain Keras on some batches."""
    return lambda run: trained(run, run.network(), batches=batches(run))


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


def out_of_sample(run, folds=FOLDS):
    """Returns probabilities by networks that have not seen the example."""
    part = run.changed(callbacks=())
    return kb.report.out_of_sample(
        lambda: part.compiled(part.network()),
        *run.arrays,
        folds=folds,
        seed=run.seed,
        verbose=0,
        epochs=run.settings["epochs"],
        batch_size=run.batch_size,
        callbacks=part.all_callbacks(),
    )


def _folds(run):
    """Scores each label by a network that has not seen it.

    The score is cleanlab's "self-confidence" (Northcutt et al., 2021).
    """
    found = out_of_sample(run)
    return Outcome(
        run.clock.steps,
        scores={"out_of_sample": of_given(found, run.task)},
        agrees=found.argmax(-1) == run.task.y_given,
    )


def given_probability(network, task):
    """Returns a network's probability of each given label."""
    return of_given(predict(network, task), task)


def predict(network, task):
    """Returns class probabilities of the training examples."""
    logits = network.predict(task.x, batch_size=1024, verbose=0)
    return tf.nn.softmax(logits).numpy()


def of_given(scores, task):
    """Returns the entries of the given labels in a score of all classes."""
    return scores[np.arange(len(task.x)), task.y_given]


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
    "mixed": _plain(lambda run: pairs(run).map(mixed)),
    "finetune": _finetune,
    "reweight": _reweight,
    "soseleto": _soseleto,
    "folds": _folds,
    "standard": _plain(shuffled),
    **dict.fromkeys(RULES, _select),
}
