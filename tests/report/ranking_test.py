import io
import os

import numpy as np
import pandas as pd
import pytest

from keras_bilevel import report

SCORES = [0.9, 0.1, np.nan, 0.4, 0.1]
LABELS = np.array([2, 0, 1, 2, 1])


def test_order_ties_and_unseen():
    table = report.suspects(SCORES)
    assert list(table) == ["rank", "id", "score", "percentile"]
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["id"].tolist() == [1, 4, 3, 0]
    assert table["score"].tolist() == [0.1, 0.1, 0.4, 0.9]
    assert table["percentile"].tolist() == [0, 0, 0.5, 0.75]


def test_all_columns():
    table = report.suspects(
        SCORES, LABELS, ids=list("abcde"), weight=np.arange(5), note=["-"] * 5
    )
    assert list(table) == [
        "rank",
        "id",
        "score",
        "label",
        "percentile",
        "weight",
        "note",
    ]
    assert table["id"].tolist() == list("beda")
    assert table["label"].tolist() == [0, 1, 2, 2]
    assert table["weight"].tolist() == [1, 4, 3, 0]


def test_names_of_labels():
    table = report.suspects(SCORES, LABELS, class_names=["a", "b", "c"])
    assert table["label"].tolist() == ["a", "b", "c", "c"]


def test_names_that_are_not_utf_8():
    names = [os.fsdecode(b"%d\xff.png" % i) for i in range(5)]
    table = report.suspects(SCORES, LABELS, ids=names, class_names=names)
    numbers = report.suspects(SCORES, LABELS)
    assert table["id"].tolist() == [rf"{i}\udcff.png" for i in numbers["id"]]
    assert table["label"][0] == rf"{numbers['label'][0]}\udcff.png"


@pytest.mark.parametrize("y", [LABELS[:, None], np.eye(3)[LABELS]])
def test_forms_of_labels(y):
    assert report.suspects(SCORES, y)["label"].tolist() == [0, 1, 2, 2]


def test_nothing_seen_is_an_empty_table():
    table = report.suspects([np.nan, np.nan], [0, 1])
    assert len(table) == 0 and "label" in table


def test_csv_round_trip():
    table = report.suspects(SCORES, LABELS, weight=np.linspace(0, 1, 5))
    text = table.to_csv(index=False)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), table)


@pytest.mark.parametrize("name", ["rank", "id", "score", "label", "percentile"])
def test_invalid_column_names(name):
    # "id" is a column of its own, "ids" the argument for it.
    with pytest.raises(ValueError, match=f"`columns`.*Received: {name}"):
        report.suspects(SCORES, **{name: np.zeros(5)})
