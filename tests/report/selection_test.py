"""Label precision and the table of what was kept."""

import numpy as np
import pytest

import keras_bilevel as kb

KEPT = np.array([[2, 2, 2, 2], [2, 1, 0, -1], [0, 0, 0, 0]])
WRONG = np.array([False, True, False, True])


def test_label_precision_counts_networks():
    precision = kb.report.label_precision(KEPT, WRONG)
    np.testing.assert_allclose(precision, [0.5, 2 / 3, np.nan])


def test_kept_examples_lists_each_example_once_an_epoch():
    table = kb.report.kept_examples(KEPT, ids=["a", "b", "c", "d"])
    assert list(table["epoch"]) == [0, 0, 0, 0, 1, 1]
    assert list(table["id"]) == ["a", "b", "c", "d", "a", "b"]
    assert list(table["networks"]) == [2, 2, 2, 2, 2, 1]


def test_ids_of_another_length_are_an_error():
    with pytest.raises(ValueError, match="`ids`"):
        kb.report.kept_examples(KEPT, ids=["a", "b"])


def test_label_precision_is_plotted_against_epochs():
    ax = kb.report.plot_label_precision({"Co-teaching": KEPT}, WRONG)
    line, everything = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(everything.get_ydata(), 0.5)


@pytest.mark.parametrize("kept", [[0.5, 1.0], np.ones((2, 4)), np.ones(4, int)])
def test_wrong_kept_is_an_error(kept):
    with pytest.raises(ValueError, match="`kept`. Expected an integer array"):
        kb.report.label_precision(kept, WRONG)


def test_wrong_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="`wrong`"):
        kb.report.label_precision(KEPT, WRONG[:3])


def test_one_history_is_plotted_by_itself():
    wrong = np.array([False, True])
    ax = kb.report.plot_label_precision([[2, 1], [2, 0]], wrong)
    (line, _) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [2 / 3, 1.0])
