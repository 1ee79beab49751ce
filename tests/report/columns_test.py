"""What every report takes as scores, and what it says without libraries."""

import sys
import types

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_bilevel as kb
from keras_bilevel import report

VALUES = [0.5, 0.25, 1.0]
FORMS = {
    "list": VALUES,
    "float32": np.array(VALUES, "float32"),
    "tensor": tf.constant(VALUES),
    "variable": keras.Variable(VALUES),
    "object": types.SimpleNamespace(example_scores=np.array(VALUES)),
    # The order counts, not the index.
    "series": pd.Series(VALUES, index=[2, 0, 1]),
    "table": pd.DataFrame({"any": VALUES}),
    "column": pd.DataFrame({"score": VALUES, "note": ["a", "b", "c"]}),
    "weighting": kb.weighting.Soseleto(3),
}
FORMS["weighting"].cumulative.assign(VALUES)
IMAGES = np.zeros((3, 2, 2))


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_scores(form):
    scores = FORMS[form]
    assert report.suspects(scores)["id"].tolist() == [1, 0, 2]
    mask = report.keep_mask(scores, threshold=0.5)
    np.testing.assert_array_equal(mask, [True, False, True])


@pytest.mark.parametrize("dtype", ["Float32", "Int64"])
def test_missing_values_of_pandas_were_never_seen(dtype):
    series = pd.Series([2, None, 1], dtype=dtype)
    assert report.suspects(series)["id"].tolist() == [2, 0]


def test_a_ranked_table_is_no_scores():
    table = report.suspects(VALUES)
    with pytest.raises(ValueError, match="order of the data.*`rank`"):
        report.keep_mask(table, keep=0.5)


@pytest.mark.parametrize(
    "thing", [kb.callbacks.WeightHistory(), kb.weighting.DeepBilevel()]
)
def test_what_has_no_score_of_examples(thing):
    name = type(thing).__name__
    with pytest.raises(ValueError, match=f"Received: {name}, which has no"):
        report.suspects(thing)


def test_integer_scores_meet_fractional_thresholds():
    mask = report.keep_mask([0, 1, 2], threshold=0.5)
    np.testing.assert_array_equal(mask, [False, True, True])


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros((3, 1)),
        0.5,
        [True, False],
        ["a", "b"],
        object(),
        pd.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0]}),
        pd.Series([True, False], dtype="boolean"),
    ],
    ids=[
        "matrix",
        "scalar",
        "booleans",
        "strings",
        "object",
        "columns",
        "nullable",
    ],
)
def test_invalid_scores(scores):
    with pytest.raises(ValueError, match="`scores`.*example_scores.*Received"):
        report.suspects(scores)


def test_wrong_lengths_are_errors():
    scores = np.array(VALUES)
    calls = {
        "y": lambda: report.suspects(scores, y=[0, 1]),
        "ids": lambda: report.suspects(scores, ids=[0, 1]),
        "weight": lambda: report.suspects(scores, weight=[0, 1]),
        "wrong": lambda: report.threshold_sweep(scores, [True, False]),
        "x": lambda: report.contact_sheet(scores, np.zeros((2, 4, 4))),
        "data": lambda: report.cleaned(scores, np.zeros(2), keep=0.5),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"`{name}`.*Received"):
            call()


def test_invalid_labels():
    for y in ([0.5, 0.2, 0.1], np.full((3, 2), 0.5), np.zeros((3, 2), int)):
        with pytest.raises(ValueError, match="`y`.*one-hot.*Received"):
            report.suspects(VALUES, y=y)


def test_error_of_missing_class_names():
    with pytest.raises(ValueError, match="`class_names`.*class 2.*2 names"):
        report.class_shares(VALUES, [0, 1, 2], keep=0.5, class_names=["a", "b"])


def test_nothing_seen_is_an_error():
    unseen = [np.nan, np.nan]
    with pytest.raises(ValueError, match="at least one.*2 scores, all NaN"):
        report.threshold_sweep(unseen, [True, False])
    with pytest.raises(ValueError, match="at least one.*2 scores, all NaN"):
        report.contact_sheet(unseen, np.zeros((2, 4, 4)))


@pytest.mark.parametrize(
    "library,call",
    [
        ("pandas", lambda: report.suspects(VALUES)),
        ("pandas", lambda: report.threshold_sweep(VALUES, [True] * 3)),
        ("pandas", lambda: report.class_shares(VALUES, [0, 1, 2], keep=0.5)),
        ("matplotlib", lambda: report.plot_class_shares({})),
        ("matplotlib", lambda: report.plot_threshold_sweep(None)),
        (
            "matplotlib",
            lambda: report.contact_sheet(VALUES, IMAGES),
        ),
    ],
)
def test_error_without_libraries_names_the_extra(library, call, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    for module in ("matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ImportError, match=rf"{library}.*keras-bilevel\[repo"):
        call()


def test_masks_and_data_need_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(report.cleaned(VALUES, np.arange(3), keep=1 / 3)) == 1
