"""KerasTuner trains with copies of callbacks."""

import copy
import pickle

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from tests.models.tools import batch_of

N = 32


def make_callbacks():
    x, y = batch_of(N)
    return {
        "curves": kb.callbacks.LabelCurves(x, y),
        "examples": kb.callbacks.ExampleHistory(N),
        "selection": kb.callbacks.SelectionHistory(N),
        "weights": kb.callbacks.WeightHistory(),
    }


NAMES = list(make_callbacks())


def seen(callback):
    """Returns what a callback shows of what it has seen."""
    if isinstance(callback, kb.callbacks.WeightHistory):
        return callback.weights
    return callback.example_scores


def fit(*callbacks, seed=3):
    keras.utils.set_random_seed(seed)
    x, y = batch_of(N)
    model = kb.SelectionModel(
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]),
        rule=kb.selection.SelfPaced(),
        schedule=kb.schedules.ConstantSchedule(0.4),
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(
        x, y, batch_size=16, epochs=2, verbose=0, callbacks=list(callbacks)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_keeps_what_it_saw_and_the_original_saw_nothing(name):
    original, expected = make_callbacks()[name], make_callbacks()[name]
    fit(expected)
    copied = copy.deepcopy(original)
    fit(copied)
    np.testing.assert_array_equal(seen(copied), seen(expected))
    with pytest.raises(ValueError, match="Train first.*KerasTuner.*copies"):
        seen(original)


@pytest.mark.parametrize("copier", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_after_use_has_seen_the_same_and_goes_on(name, copier):
    used = make_callbacks()[name]
    fit(used)
    before = seen(used)
    copied = copier(used)
    if isinstance(copied, bytes):
        copied = pickle.loads(copied)
    assert copied.model is None
    np.testing.assert_array_equal(seen(copied), before)
    fit(copied, seed=4)
    np.testing.assert_array_equal(seen(used), before)
    fit(used, seed=4)
    np.testing.assert_array_equal(seen(copied), seen(used))
    assert len(seen(copied)) > len(before) or np.any(seen(copied) != before)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_within_fit(name):
    used = make_callbacks()[name]
    copies = []
    fit(
        used,
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(used))
        ),
    )
    np.testing.assert_array_equal(seen(copies[1]), seen(used))
    once = seen(copies[0])
    assert len(once) < len(seen(used)) or np.any(once != seen(used))


def test_nothing_seen_is_an_error_that_says_so():
    callbacks = make_callbacks()
    x, y = batch_of(N)
    images = np.zeros((N, 4, 4))
    wrong = y == 0
    evolution = kb.callbacks.WeightEvolution()
    calls = [
        lambda: callbacks["examples"].given_probability,
        lambda: callbacks["examples"].plot(),
        lambda: callbacks["selection"].kept,
        lambda: callbacks["selection"].plot(),
        lambda: callbacks["weights"].plot(),
        lambda: callbacks["curves"].given_probability,
        lambda: callbacks["curves"].plot(),
        lambda: evolution.plot(),
        lambda: kb.report.label_precision(callbacks["selection"], wrong),
        lambda: kb.report.kept_examples(callbacks["selection"]),
        lambda: kb.report.plot_label_precision(
            {"a": callbacks["selection"]}, wrong
        ),
    ]
    for name in ("examples", "selection", "curves"):
        history = callbacks[name]
        calls += [
            lambda h=history: kb.report.suspects(h, y),
            lambda h=history: kb.report.keep_mask(h, keep=0.5),
            lambda h=history: kb.report.cleaned(h, (x, y), keep=0.5),
            lambda h=history: kb.report.class_shares(h, y, keep=0.5),
            lambda h=history: kb.report.threshold_sweep(h, wrong),
            lambda h=history: kb.report.contact_sheet(h, images),
            lambda h=history: kb.report.write_html(h, "never.html"),
        ]
    for call in calls:
        with pytest.raises(ValueError, match="seen none. Train first"):
            call()


def test_reports_take_every_history():
    callbacks = make_callbacks()
    callbacks.pop("weights")
    fit(*callbacks.values())
    for history in callbacks.values():
        table = kb.report.suspects(history)
        np.testing.assert_array_equal(
            table["score"], np.sort(history.example_scores)
        )
