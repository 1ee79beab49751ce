"""Schedules in a search space of KerasTuner."""

import numpy as np
import pytest

from keras_bilevel import schedules
from tests.schedules.tools import ALPHA
from tests.schedules.tools import BETA
from tests.schedules.tools import EPOCHS
from tests.schedules.tools import TIMES
from tests.schedules.tools import UNITS


def hyperparameters(values=()):
    keras_tuner = pytest.importorskip("keras_tuner")
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return hp


def names(hp):
    return [entry.name for entry in hp.space]


SEARCHABLE = {
    "co_teaching": (schedules.CoTeachingSchedule(0.3, 2.0, 5.0), {}),
    "s2e": (schedules.S2ESchedule(ALPHA, BETA, EPOCHS), {}),
    "s2e_shared": (
        schedules.S2ESchedule(ALPHA, BETA[1], EPOCHS, True, (1, 1, 1, 1)),
        {"shared": True, "scales": (1, 1, 1, 1)},
    ),
    "rbf": (schedules.RBFSchedule(*UNITS, EPOCHS), {"num_units": 3}),
    "mlp": (schedules.MLPSchedule(*UNITS, EPOCHS), {"num_units": 3}),
    "monotone": (
        schedules.RandomMonotoneSchedule(EPOCHS, 7, 3),
        {"num_knots": 3},
    ),
}


@pytest.mark.parametrize("name", list(SEARCHABLE))
@pytest.mark.parametrize("prefix", [{}, {"prefix": "r/"}])
def test_there_and_back(name, prefix):
    schedule, options = SEARCHABLE[name]
    values = schedule.to_hyperparameters(**prefix)
    hp = hyperparameters(values)
    again = type(schedule).from_hyperparameters(hp, EPOCHS, **prefix, **options)
    assert names(hp) == list(values)
    assert all(
        key.startswith(prefix.get("prefix", "schedule_")) for key in values
    )
    np.testing.assert_allclose(again(TIMES), schedule(TIMES), atol=1e-6)


def with_sum_one(values):
    """Only the ratios of the alphas of S2E matter."""
    total = sum(v for key, v in values.items() if "alpha" in key)
    return {k: v / total if "alpha" in k else v for k, v in values.items()}


def check_made(schedule, hp):
    schedule.check_epochs(EPOCHS)
    shares = schedule(TIMES)
    assert np.shape(shares) == np.shape(TIMES)
    assert np.all((shares >= 0) & (shares <= 1))
    again = with_sum_one(schedule.to_hyperparameters())
    assert again == pytest.approx(with_sum_one(hp.values))


@pytest.mark.parametrize("name", list(SEARCHABLE))
def test_samples_and_defaults_are_schedules(name):
    schedule, options = SEARCHABLE[name]
    make = type(schedule).from_hyperparameters
    hp = hyperparameters()
    check_made(make(hp, EPOCHS, **options), hp)
    for seed in range(5):
        hp.values = {
            entry.name: entry.random_sample(seed + 10 * i)
            for i, entry in enumerate(hp.space)
        }
        check_made(make(hp, EPOCHS, **options), hp)


def test_names_and_ranges_of_s2e():
    hp = hyperparameters()
    schedules.S2ESchedule.from_hyperparameters(hp, EPOCHS)
    expected = [f"schedule_alpha_{i}" for i in range(4)]
    expected += [f"schedule_beta_{i}_{j}" for i in range(4) for j in range(4)]
    assert names(hp) == expected
    assert schedules.S2ESchedule.hyperparameter_names() == expected
    assert {(e.min_value, e.max_value) for e in hp.space} == {(0.0, 1.0)}
    shared = schedules.S2ESchedule.hyperparameter_names("", shared=True)
    assert shared == [
        f"{kind}_{i}" for kind in ("alpha", "beta") for i in range(4)
    ]


def test_alpha_is_normalised():
    values = {f"schedule_alpha_{i}": a for i, a in enumerate([1, 0.5, 0.5, 0])}
    schedule = schedules.S2ESchedule.from_hyperparameters(
        hyperparameters(values), EPOCHS
    )
    np.testing.assert_allclose(schedule.alpha, [0.5, 0.25, 0.25, 0])
    zeros = {f"schedule_alpha_{i}": 0.0 for i in range(4)}
    schedule = schedules.S2ESchedule.from_hyperparameters(
        hyperparameters(zeros), EPOCHS
    )
    np.testing.assert_allclose(schedule.alpha, [0.25] * 4)


def test_ranges_of_co_teaching():
    hp = hyperparameters()
    schedule = schedules.CoTeachingSchedule.from_hyperparameters(hp, 5)
    ranges = {e.name: (e.min_value, e.max_value) for e in hp.space}
    assert ranges == {
        "schedule_tau": (0, 1),
        "schedule_c": (0.25, 4),
        "schedule_t_k": (1, 5),
    }
    assert (schedule.tau, schedule.c, schedule.t_k) == (0.5, 1, 5)
    schedules.CoTeachingSchedule.from_hyperparameters(hyperparameters(), 1)


def test_error_for_wrong_epochs_of_a_trial():
    for schedule, _ in SEARCHABLE.values():
        with pytest.raises(ValueError, match="`epochs`"):
            type(schedule).from_hyperparameters(hyperparameters(), 0)


def test_error_for_wrong_number_of_units():
    with pytest.raises(ValueError, match="`num_units`"):
        schedules.MLPSchedule.from_hyperparameters(
            hyperparameters(), 9, num_units=0
        )
