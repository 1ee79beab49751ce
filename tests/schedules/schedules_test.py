"""Every schedule against its formula in float64 NumPy."""

import json

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_bilevel import schedules
from tests.schedules.tools import ALPHA
from tests.schedules.tools import BETA
from tests.schedules.tools import EPOCHS
from tests.schedules.tools import TIMES
from tests.schedules.tools import UNITS
from tests.schedules.tools import VALUES
from tests.schedules.tools import cases

NAMES = list(cases())
shares = st.floats(0, 1)
few = hypothesis.settings(max_examples=40, deadline=None)


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_the_formula(name):
    schedule, expected = cases()[name]
    np.testing.assert_allclose(schedule(TIMES), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_kind_and_shape_of_t(name):
    schedule, _ = cases()[name]
    expected = float(schedule(7.0))
    for t in (7, np.int64(7), tf.constant(7), tf.constant(7, "int64")):
        share = schedule(t)
        assert share.dtype == "float32" and share.shape == ()
        assert float(share) == expected
    grid = np.full((2, 3), 7, "int32")
    np.testing.assert_allclose(schedule(grid), np.full((2, 3), expected))
    assert float(schedule(0)) == pytest.approx(1, abs=1e-6)


def test_table_1_at_one_epoch_by_hand():
    # a = (1, 0.5, 0.5, 2), t = 2, T = 4.
    falls = [np.exp(-1)] * 2 + [1 / 2] * 2
    rises = [1 / 4, np.log(5) / np.log(17)] * 2
    for i in range(4):
        schedule = schedules.S2ESchedule(np.eye(4)[i], np.ones((4, 4)), 4)
        expected = falls[i] + 0.5 * rises[i]
        assert float(schedule(2)) == pytest.approx(expected, abs=1e-6)


def test_s2e_rows_belong_to_bases():
    ones = np.eye(4)
    for i in range(4):
        own = schedules.S2ESchedule(ones[i], BETA, EPOCHS)
        shared = schedules.S2ESchedule(ones[i], BETA[i], EPOCHS, shared=True)
        np.testing.assert_array_equal(own(TIMES), shared(TIMES))


def test_constant_is_co_teaching_that_falls_at_once():
    t = np.arange(20)
    constant = schedules.ConstantSchedule(0.3)
    at_once = schedules.CoTeachingSchedule(0.3, t_k=1)
    np.testing.assert_allclose(constant(t), at_once(t), atol=1e-7)


def test_all_in_one_compiled_function():
    made = [schedule for schedule, _ in cases().values()]

    @tf.function(jit_compile=True)
    def compiled(t):
        return tf.stack([schedule(t) for schedule in made])

    expected = np.stack([values for _, values in cases().values()])
    whole = TIMES == np.floor(TIMES)
    np.testing.assert_allclose(
        compiled(tf.constant(TIMES, "float32")), expected, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        compiled(tf.constant(TIMES[whole], "int64")),
        expected[:, whole],
        rtol=0,
        atol=1e-6,
    )


def is_a_share(schedule):
    """R(0) = 1, and all values in [0, 1]."""
    values = np.asarray(schedule(np.linspace(0, 60, 61)))
    schedule.check_epochs(schedule.epochs or EPOCHS)
    return values[0] >= 1 - 1e-6 and np.all(values >= 0) and np.all(values <= 1)


@few
@hypothesis.given(
    alpha=st.lists(shares, min_size=4, max_size=4),
    beta=st.lists(shares, min_size=16, max_size=16),
)
@hypothesis.example(alpha=[1, 1, 1, 1], beta=[0] * 16)
@hypothesis.example(alpha=[1, 1, 1, 1], beta=[1, 1, 1, 0] * 4)
def test_random_s2e(alpha, beta):
    alpha = np.array(alpha) + 1e-3
    alpha = alpha / np.sum(alpha)
    assert is_a_share(
        schedules.S2ESchedule(alpha, np.reshape(beta, (4, 4)), 30)
    )


@few
@hypothesis.given(tau=shares, c=st.floats(0.01, 20), t_k=st.floats(0.01, 300))
def test_random_co_teaching(tau, c, t_k):
    assert is_a_share(schedules.CoTeachingSchedule(tau, c, t_k))
    assert is_a_share(schedules.ConstantSchedule(tau))


@few
@hypothesis.given(values=st.lists(shares, max_size=20))
def test_random_piecewise(values):
    assert is_a_share(schedules.PiecewiseSchedule([1.0, *values]))


@few
@hypothesis.given(
    units=st.lists(st.floats(-50, 50), min_size=9, max_size=9),
    seed=st.integers(0, 2**31 - 1),
)
def test_random_networks_and_random_monotone(units, seed):
    first, second, third = np.reshape(units, (3, 3))
    widths = np.abs(third) + 0.05
    assert is_a_share(schedules.MLPSchedule(first, second, third, 30))
    assert is_a_share(schedules.RBFSchedule(first, second, widths, 30))
    monotone = schedules.RandomMonotoneSchedule(30, seed)
    assert is_a_share(monotone)
    assert np.all(np.diff(monotone(np.arange(40))) <= 1e-6)


def test_other_seeds_are_other_schedules():
    first, same, other = (
        np.asarray(schedules.RandomMonotoneSchedule(30, seed)(TIMES))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, same)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name):
    schedule, expected = cases()[name]
    config = keras.saving.serialize_keras_object(schedule)
    loaded = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == schedule.get_config()
    assert loaded.epochs == schedule.epochs
    np.testing.assert_array_equal(loaded(TIMES), schedule(TIMES))


def test_schedules_keep_copies():
    alpha, beta = ALPHA.copy(), BETA.copy()
    schedule = schedules.S2ESchedule(alpha, beta, EPOCHS)
    before = np.asarray(schedule(TIMES))
    alpha[:], beta[:] = 0, 0
    np.testing.assert_array_equal(schedule(TIMES), before)


def test_epochs_of_a_run():
    for schedule, _ in cases().values():
        schedule.check_epochs(schedule.epochs or 7)
    assert schedules.CoTeachingSchedule(0.2).epochs is None
    assert schedules.ConstantSchedule(0.2).epochs is None
    assert schedules.PiecewiseSchedule(VALUES).epochs == 5


@pytest.mark.parametrize("name", ["s2e", "rbf", "mlp", "monotone"])
def test_wrong_number_of_epochs(name):
    schedule, _ = cases()[name]
    with pytest.raises(ValueError, match="Expected 30, .*make a schedule for"):
        schedule.check_epochs(EPOCHS + 1)


def test_wrong_length_of_values():
    with pytest.raises(ValueError, match="Expected 5, .*Received: epochs=6"):
        schedules.PiecewiseSchedule(VALUES).check_epochs(6)


def test_error_where_an_own_schedule_does_not_begin_at_1():
    class Half(schedules.Schedule):
        def share(self, t):
            return 0.5 + 0.0 * t

    assert float(Half()(3)) == 0.5
    with pytest.raises(ValueError, match=r"R\(0\) = 1.*Half.*R\(0\)=0.5"):
        Half().check_epochs(3)


def test_error_without_share():
    with pytest.raises(NotImplementedError, match="must implement `share"):
        schedules.Schedule()(0)


EQUAL = [0.25] * 4


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedules.CoTeachingSchedule(1.1), "`tau`.*tau=1.1"),
        (lambda: schedules.CoTeachingSchedule(-0.1), "`tau`"),
        (lambda: schedules.CoTeachingSchedule(np.nan), "`tau`"),
        (lambda: schedules.CoTeachingSchedule(0.5, c=0), "`c`.*> 0"),
        (lambda: schedules.CoTeachingSchedule(0.5, c=np.nan), "`c`"),
        (lambda: schedules.CoTeachingSchedule(0.5, t_k=0), "`t_k`"),
        (lambda: schedules.CoTeachingSchedule(0.5, t_k=np.inf), "`t_k`"),
        (lambda: schedules.ConstantSchedule(2), "`tau`"),
        (lambda: schedules.PiecewiseSchedule([]), "(epochs,)"),
        (lambda: schedules.PiecewiseSchedule(1.0), "(epochs,)"),
        (lambda: schedules.PiecewiseSchedule([[1.0]]), "(epochs,)"),
        (lambda: schedules.PiecewiseSchedule([0.9, 1.0]), r"values\[0\] = 1"),
        (lambda: schedules.PiecewiseSchedule([1.0, 1.5]), r"`values`.*\[0, 1"),
        (lambda: schedules.PiecewiseSchedule([1.0, np.nan]), "finite"),
        (
            lambda: schedules.S2ESchedule([0.5] * 4, BETA, 9),
            "`alpha`.*sum 1.*Divide",
        ),
        (lambda: schedules.S2ESchedule([1.5, -0.5, 0, 0], BETA, 9), "`alpha`"),
        (lambda: schedules.S2ESchedule([0.5, 0.5], BETA, 9), "4 numbers"),
        (lambda: schedules.S2ESchedule([np.nan] * 4, BETA, 9), "`alpha`"),
        (lambda: schedules.S2ESchedule(EQUAL, BETA + 1, 9), "`beta`"),
        (lambda: schedules.S2ESchedule(EQUAL, BETA[0], 9), "`shared=True`"),
        (
            lambda: schedules.S2ESchedule(EQUAL, BETA, 9, shared=True),
            "`shared=False`",
        ),
        (lambda: schedules.S2ESchedule(EQUAL, BETA, 0), "`epochs`"),
        (lambda: schedules.S2ESchedule(EQUAL, BETA, 2.5), "`epochs`"),
        (
            lambda: schedules.S2ESchedule(EQUAL, BETA, 9, scales=(1, 1, 0, 1)),
            "`scales`",
        ),
        (
            lambda: schedules.S2ESchedule(EQUAL, BETA, 9, scales=(1, 1)),
            "`scales`",
        ),
        (lambda: schedules.RBFSchedule([1], [1], [0], 9), "`widths`.*> 0"),
        (lambda: schedules.RBFSchedule([1, 2], [1], [1], 9), "same shape"),
        (lambda: schedules.RBFSchedule([1], [np.inf], [1], 9), "`centers`"),
        (lambda: schedules.MLPSchedule([], [], [], 9), "at least one unit"),
        (lambda: schedules.MLPSchedule(1, 1, 1, 9), "same shape"),
        (lambda: schedules.MLPSchedule(*UNITS, True), "`epochs`"),
        (lambda: schedules.RandomMonotoneSchedule(9, -1), "`seed`"),
        (lambda: schedules.RandomMonotoneSchedule(9, 1.5), "`seed`"),
        (lambda: schedules.RandomMonotoneSchedule(9, 1, 0), "`num_knots`"),
    ],
)
def test_error_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()
