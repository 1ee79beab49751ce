"""Trains on noisy labels by sample selection, and by what it is compared with.

A small clean set, apart from test, judges schedules; "Learning to Reweight"
alone trains with it.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import tasks
from benchmarks import training

# Everything that determines a run. An experiment changes some of it.
DEFAULTS = {
    "dataset": "mnist",
    "num_train": 10_000,
    "num_clean": 1_000,  # The validation set, clean and apart from test.
    "noise_kind": "symmetric",
    "noise": 0.5,
    "label_set": None,  # The labels of CIFAR-10N, for human noise.
    "held_out": 0.0,
    "inputs": [0, 1],  # Range of the pixels.
    "network": "mlp",
    "method": "standard",
    "schedule": None,  # Name and arguments, of the methods with an R(t).
    "batch_size": 128,
    "epochs": 20,
    "learning_rate": 0.001,  # Of Adam; falls linearly to 0 after 40 %.
    "every": 1,  # Epochs between two evaluations.
    "seed": 0,
}
METHODS = {
    "standard": "Standard",
    "decoupling": "Decoupling",
    "f_correction": "F-correction",
    "self_paced": "MentorNet (self-paced)",
    "co_teaching": "Co-teaching",
    "co_teaching_plus": "Co-teaching+",
    "reweight": "Reweight",
}
RULES = {
    "decoupling": kb.selection.Decoupling,
    "self_paced": kb.selection.SelfPaced,
    "co_teaching": kb.selection.CoTeaching,
    "co_teaching_plus": kb.selection.CoTeachingPlus,
}
# The share of epochs in which Co-teaching+ is Co-teaching: its authors' code.
WARM_UP = {"cifar10": 0.1, "cifar100": 0.025}
CONSTANT_SHARE = 0.4  # Of the epochs, as in S2E: 80 of 200.
# A network's most confident examples, but for the outliers (Patrini et al.).
ANCHOR_PERCENTILE = 97


def settings(**changes):
    """Returns the settings of a run: `DEFAULTS` with changes."""
    return tasks.changed(DEFAULTS, changes)


def co_teaching_schedule(noise, epochs):
    """Returns Co-teaching's hand-made schedule: tau is the noise rate.

    Its t_k is 10 of 200 epochs; shorter runs get a little more of theirs.
    """
    t_k = max(3, round(0.05 * epochs))
    return {"name": "CoTeachingSchedule", "tau": noise, "t_k": t_k}


def schedule_of(settings):
    """Returns the `kb.schedules.Schedule` of a run, or `None`."""
    if settings["schedule"] is None:
        return None
    arguments = dict(settings["schedule"])
    return getattr(kb.schedules, arguments.pop("name"))(**arguments)


def split(settings, data_dir):
    """Returns the noisy `Task` and the clean validation set `(x, y)`."""
    count = settings["num_train"] + settings["num_clean"]
    task = tasks.make({**settings, "num_train": count}, data_dir)
    return tasks.split_clean(task, settings["num_clean"], settings["seed"])


def run(settings, data_dir=None, verbose=0):
    """Trains with one method.

    Returns:
        Dict of metrics:

        - `test`, `train_given`, `train_clean`: accuracies after the last
          epoch. Validation data are not among them.
        - `precision`: the share of right labels among those that were learned
          from in the last epoch.
        - `curves`, `epochs`, `steps`; curves have `precision` too.
    """
    keras.utils.set_random_seed(settings["seed"])
    task, clean = split(settings, data_dir)
    curves = kb.callbacks.LabelCurves(
        task.x,
        task.y_given,
        task.y_clean,
        task.evaluation,
        every=settings["every"],
    )
    fit = {
        "standard": _fit_standard,
        "f_correction": _fit_f_correction,
        "reweight": _fit_reweight,
    }.get(settings["method"], _fit_selection)
    steps, precision = fit(task, clean, settings, curves, verbose)
    accuracies = training.accuracies(curves.curves, "test")
    if precision is not None:
        accuracies["curves"]["precision"] = np.round(precision, 5).tolist()
        accuracies["precision"] = float(precision[-1])
    return {**accuracies, "steps": steps, "epochs": settings["epochs"]}


def network(settings, task):
    return networks.build(
        settings["network"], task.x.shape[1:], task.num_classes
    )


def selection_model(settings, task, schedule):
    """Returns a compiled `kb.SelectionModel`."""
    rule = _rule(settings)
    count = rule.num_networks or 1
    model = kb.SelectionModel(
        [network(settings, task) for _ in range(count)], rule, schedule
    )
    return compiled(model, settings)


def _rule(settings):
    rule = RULES[settings["method"]]
    if rule is not kb.selection.CoTeachingPlus:
        return rule()
    share = WARM_UP.get(settings["dataset"], 0.0)
    return rule(warm_up=round(share * settings["epochs"]))


def compiled(model, settings, loss=None):
    """Compiles a model with the optimizer of all methods."""
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"]),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def options(settings, verbose, *callbacks):
    """Returns the arguments of `fit` that all methods share."""

    def rate(epoch):
        constant = CONSTANT_SHARE * settings["epochs"]
        left = (settings["epochs"] - epoch) / (settings["epochs"] - constant)
        return settings["learning_rate"] * min(1.0, left)

    decay = keras.callbacks.LearningRateScheduler(rate)
    return {
        "epochs": settings["epochs"],
        "callbacks": [decay, *callbacks],
        "verbose": verbose,
    }


def _fit_selection(task, clean, settings, curves, verbose):
    model = selection_model(settings, task, schedule_of(settings))
    history = kb.callbacks.SelectionHistory(len(task.x))
    model.fit(
        task.x,
        task.y_given,
        batch_size=settings["batch_size"],
        **options(settings, verbose, curves, history),
    )
    precision = kb.report.label_precision(history, task.wrong)
    return int(model.optimizer.iterations), precision


def _fit_standard(task, clean, settings, curves, verbose):
    model = compiled(network(settings, task), settings)
    _fit_plain(model, task, settings, options(settings, verbose, curves))
    return int(model.optimizer.iterations), None


def _fit_plain(model, task, settings, options):
    batches = kb.data.shuffled_batches(
        (task.x, task.y_given), settings["batch_size"], seed=settings["seed"]
    )
    batches = batches.map(lambda x, y, sample_weight, ids: (x, y))
    model.fit(batches, shuffle=False, **options)


def _fit_f_correction(task, clean, settings, curves, verbose):
    """Forward correction (Patrini et al., 2017): two trainings."""
    first = compiled(network(settings, task), settings)
    _fit_plain(first, task, settings, options(settings, verbose))
    logits = first.predict(task.x, batch_size=1024, verbose=0)
    confusion = tf.constant(
        anchored_confusion(tf.nn.softmax(logits).numpy()), "float32"
    )

    def forward_loss(y, logits):
        given = tf.matmul(tf.nn.softmax(logits), confusion)
        return keras.losses.sparse_categorical_crossentropy(y, given)

    second = compiled(network(settings, task), settings, forward_loss)
    _fit_plain(second, task, settings, options(settings, verbose, curves))
    return int(second.optimizer.iterations), None


def anchored_confusion(probabilities):
    """Estimates which label a class gets, from its most typical examples.

    Args:
        probabilities: Array of shape `(n, classes)`, predictions for noisy
            labels.

    Returns:
        Array of shape `(classes, classes)`; rows sum to 1.
    """
    limits = np.percentile(probabilities, ANCHOR_PERCENTILE, axis=0)
    below = np.where(probabilities <= limits, probabilities, -1.0)
    return probabilities[np.argmax(below, axis=0)]


def _fit_reweight(task, clean, settings, curves, verbose):
    model = kb.BilevelModel(
        network(settings, task), weighting=kb.weighting.LearningToReweight()
    )
    batches = kb.data.source_target_batches(
        (task.x, task.y_given),
        clean,
        settings["batch_size"],
        min(settings["batch_size"], len(clean[0])),
        seed=settings["seed"],
    )
    compiled(model, settings)
    model.fit(batches, **options(settings, verbose, curves))
    return int(model.optimizer.iterations), None
