import io

import numpy as np
import pytest

from keras_bilevel import schedules

THREE = [schedules.CoTeachingSchedule(tau) for tau in (0.1, 0.3, 0.5)]


def widths(ax):
    return [line.get_linewidth() for line in ax.lines]


def names(ax):
    return [text.get_text() for text in ax.get_legend().texts]


def test_one_schedule():
    ax = THREE[2].plot(epochs=20)
    ax.figure.savefig(io.BytesIO())
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), np.arange(20))
    np.testing.assert_allclose(line.get_ydata()[[0, 5, 19]], [1, 0.75, 0.5])
    assert names(ax) == ["CoTeachingSchedule"]


def test_one_schedule_with_epochs_of_its_own():
    schedule = schedules.PiecewiseSchedule([1, 0.5, 0.5])
    ax = schedule.plot(label="mine")
    assert len(ax.lines[0].get_xdata()) == 3
    assert names(ax) == ["mine"]


def test_given_axes_are_drawn_into():
    ax = THREE[0].plot(epochs=5)
    assert THREE[1].plot(epochs=5, ax=ax) is ax
    assert len(ax.lines) == 2


def test_the_best_is_bold():
    ax = schedules.plot_schedules(THREE, 20, best=1)
    ax.figure.savefig(io.BytesIO())
    assert np.argmax(widths(ax)) == 1
    assert names(ax) == ["best"]
    assert ax.get_xlabel() == "epoch t"


def test_names_without_best():
    ax = schedules.plot_schedules(iter(THREE), 20, names=["a", "b", "c"])
    assert len(set(widths(ax))) == 1
    assert names(ax) == ["a", "b", "c"]
    assert schedules.plot_schedules(THREE, 2).get_legend() is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"schedules": []}, "at least one schedule"),
        ({"best": 3}, "from 0 to 2"),
        ({"best": -1}, "from 0 to 2"),
        ({"names": ["a"]}, "each of the 3"),
        ({"epochs": 0}, "`epochs`"),
    ],
)
def test_error_of_plot_schedules(arguments, message):
    arguments = {"schedules": THREE, "epochs": 5} | arguments
    with pytest.raises(ValueError, match=message):
        schedules.plot_schedules(**arguments)


def test_error_without_epochs():
    with pytest.raises(ValueError, match="Expected an integer, as CoTeaching"):
        THREE[0].plot()


def test_a_schedule_says_what_it_is():
    schedule = schedules.CoTeachingSchedule(tau=0.25)
    assert repr(schedule).startswith("CoTeachingSchedule(tau=0.25, ")
