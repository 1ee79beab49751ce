import io

import numpy as np
import pytest

from keras_bilevel import schedules

THREE = [schedules.CoTeachingSchedule(tau) for tau in (0.1, 0.3, 0.5)]


def widths(figure):
    return [line.get_linewidth() for line in figure.axes[0].lines]


def names(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().texts]


def test_one_schedule():
    figure = THREE[2].plot(epochs=20)
    figure.savefig(io.BytesIO())
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), np.arange(20))
    np.testing.assert_allclose(line.get_ydata()[[0, 5, 19]], [1, 0.75, 0.5])
    assert names(figure) == ["CoTeachingSchedule"]


def test_one_schedule_with_epochs_of_its_own():
    schedule = schedules.PiecewiseSchedule([1, 0.5, 0.5])
    figure = schedule.plot(label="mine")
    assert len(figure.axes[0].lines[0].get_xdata()) == 3
    assert names(figure) == ["mine"]


def test_the_best_is_bold():
    figure = schedules.plot_schedules(THREE, 20, best=1)
    figure.savefig(io.BytesIO())
    assert np.argmax(widths(figure)) == 1
    assert names(figure) == ["best"]
    assert figure.axes[0].get_xlabel() == "epoch t"


def test_names_without_best():
    figure = schedules.plot_schedules(iter(THREE), 20, names=["a", "b", "c"])
    assert len(set(widths(figure))) == 1
    assert names(figure) == ["a", "b", "c"]
    assert schedules.plot_schedules(THREE, 2).axes[0].get_legend() is None


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
