"""Trials that are not worth finishing, in one process."""

import numpy as np
import pytest

import keras_bilevel as kb
from keras_bilevel.tuners.stopping import Stopping
from tests.tuners import tools


def with_others(below, values, first=0, least=1):
    stopping = Stopping(below, first, least)
    for i, value in enumerate(values):
        stopping.values[f"{i}"] = {3: value}
    return stopping


@pytest.mark.parametrize(
    "below, limit",
    [
        (1e-12, 5.0),
        (0.25, 4.0),
        (0.5, 3.0),
        (0.75, 2.0),
        (0.8, 2.0),  # (1 - 0.8) * 5 is below 1.
        (0.9, 1.0),
    ],
)
def test_a_trial_must_not_be_below_the_quantile(below, limit):
    stopping = with_others(below, [5.0, 1.0, 3.0, 2.0, 4.0])
    assert not stopping.is_hopeless("new", 3, limit)
    assert stopping.is_hopeless("new", 3, limit + 0.01)
    assert stopping.is_hopeless("new", 3, np.nan)


def test_others_are_those_that_came_as_far():
    stopping = with_others(0.5, [1.0, 1.0], least=2)
    assert not stopping.is_hopeless("new", 2, 9.0)
    assert stopping.is_hopeless("new", 3, 9.0)
    assert not stopping.is_hopeless("0", 3, 9.0)  # One other, and "new".
    assert not with_others(0.5, [1.0]).is_hopeless("0", 3, 9.0)


def test_early_epochs_and_no_limit_stop_none():
    assert not with_others(0.5, [1.0], first=4).is_hopeless("new", 3, 9.0)
    assert not with_others(None, [1.0]).is_hopeless("new", 3, 9.0)


def test_values_survive_json():
    stopping = with_others(0.5, [1.0, np.inf])
    copy = Stopping(0.5, 0, 1)
    copy.set_state(stopping.get_state())
    assert copy.values == stopping.values


@pytest.mark.parametrize("below", [0, 1, -0.5, "0.5", True])
def test_error_for_no_quantile(below):
    with pytest.raises(ValueError, match="`stop_below`. Expected `None` or a"):
        kb.tuners.S2EOracle(objective=tools.OBJECTIVE, stop_below=below)


@pytest.mark.parametrize("sign, direction", [(1, "min"), (-1, "max")])
def test_search_stops_what_is_below_the_median(tmp_path, sign, direction):
    options = {"max_trials": 16, "directory": str(tmp_path), "seed": 3}
    options["objective"] = tools.objective(direction)
    tuner = tools.DistanceTuner(**options, stop_below=0.5)
    tuner.sign = sign
    tuner.search(verbose=0)
    assert tuner.epochs[:4] == [tools.EPOCHS] * 4  # None to compare with.
    stopped = [n for n in tuner.epochs if n < tools.EPOCHS]
    assert stopped and min(stopped) == tools.EPOCHS // 4 + 1
    assert {t.status for t in tuner.oracle.trials.values()} == {"COMPLETED"}
    best = int(np.argmin([result.value for result in tuner.oracle.results()]))
    assert tuner.epochs[best] == tools.EPOCHS

    again = tools.DistanceTuner(**options, stop_below=0.5)
    values = tuner.oracle._stopping.values
    assert again.oracle._stopping.values == values
    assert len(values) == 16


def test_without_a_limit_every_trial_is_finished(tmp_path):
    tuner = tools.tuner(tmp_path)
    tuner.search(verbose=0)
    assert tuner.epochs == [tools.EPOCHS] * 12
    assert not tuner.oracle._stopping.values
