"""Settings: all that determines a run, and so its key in the journal."""

import functools
import itertools
import operator

_COMMON = {
    "noise_kind": "symmetric",
    "noise": 0.5,
    "label_set": None,  # The labels of CIFAR-10N, for human noise.
    "held_out": 0.0,  # Share of the noisy data to evaluate on instead.
    "inputs": [0, 1],  # Range of the pixels.
    "network": "mlp",
    "every": 1,  # Epochs between two evaluations.
    "seed": 0,
}
NOISY = {
    **_COMMON,
    "dataset": "digits",
    "num_train": None,  # All of them.
    "inputs": [-1, 1],
    "method": "sgd",
    "batch_size": 128,  # All shards together.
    "num_shards": None,  # Of "bilevel".
    "num_validation_shards": None,  # Of "bilevel".
    "epochs": 30,
    "learning_rate": 0.01,
    "decay": 1.0,  # Of the rate, per epoch.
    "momentum": 0.9,
}
SOURCE_TARGET = {
    **_COMMON,
    "dataset": "mnist",
    "num_source": 10_000,
    "num_target": 500,
    "noise_kind": "confusion",
    "noise": 0.4,
    "method": "soseleto",
    "source_size": 128,
    "target_size": 32,
    "epochs": 30,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "alpha_lr": None,  # Of "soseleto".
}
SELECTION = {
    **_COMMON,
    "dataset": "mnist",
    "num_train": 10_000,
    "num_clean": 1_000,  # The validation set, clean and apart from test.
    "method": "standard",
    "schedule": None,  # Name and arguments, of the methods with an R(t).
    "batch_size": 128,
    "epochs": 20,
    "learning_rate": 0.001,  # Of Adam; falls linearly to 0 after 40 %.
}
# All that `what_would_you_pick` compares; `momentum` is added for SGD.
PICK = {
    **SELECTION,
    "case": None,
    "row": "plain",
    "num_clean": 0,
    "validation": 0.1,  # Share of the noisy data, to choose and to stop by.
    "num_shards": None,  # Of Deep Bilevel.
    "num_validation_shards": 1,
    "target_size": 32,  # Of clean batches.
    "alpha_lr": 1.0,  # Of "soseleto".
}
SEARCH = {
    **SELECTION,
    "method": "co_teaching",
    "space": "S2E",
    "algorithm": "S2E",
    "trials": 24,
}
HUMAN = {"noise_kind": "human", "noise": None, "label_set": "worse_label"}


def _changed(defaults, **changes):
    unknown = set(changes) - set(defaults)
    if unknown:
        raise ValueError(f"Unknown settings. Received: {sorted(unknown)}")
    return {**defaults, **changes}


# The settings of a run: on noisy labels alone, with a small clean target set,
# by sample selection, and of a search for a schedule R(t).
noisy = functools.partial(_changed, NOISY)
source_target = functools.partial(_changed, SOURCE_TARGET)
selection = functools.partial(_changed, SELECTION)
search = functools.partial(_changed, SEARCH)
pick = functools.partial(_changed, PICK)


def bilevel(num_shards, num_validation_shards=1):
    """Returns the changes that make a run one of Deep Bilevel Learning."""
    return {
        "method": "bilevel",
        "num_shards": num_shards,
        "num_validation_shards": num_validation_shards,
    }


def co_teaching_schedule(noise, epochs):
    """Returns Co-teaching's hand-made schedule: tau is the noise rate.

    Its t_k is 10 of 200 epochs; shorter runs get a little more of theirs.
    """
    t_k = max(3, round(0.05 * epochs))
    return {"name": "CoTeachingSchedule", "tau": noise, "t_k": t_k}


def each(name, values):
    """Returns one dict for each value of a setting."""
    return [{name: value} for value in values]


def grid(*axes):
    """Returns all unions of a dict from each list; the last turns fastest."""
    return [
        functools.reduce(operator.or_, parts, {})
        for parts in itertools.product(*axes)
    ]


def runs(make, *axes):
    """Returns the settings that `make` makes of all these combinations."""
    return [make(**changes) for changes in grid(*axes)]
