"""The table of all suspects as a file."""

import csv
import datetime
import os
import pathlib

import numpy as np
import pandas
import pytest

import keras_bilevel as kb

SCORES = np.array([0.9, 0.1, 0.4, -0.5, np.nan])


def test_it_is_read_back_as_it_was(tmp_path):
    names = [f"cats/{i},ü.png" for i in range(5)]
    path = tmp_path / "suspects.csv"
    assert kb.report.write_csv(SCORES, path, ids=names) == path
    table = pandas.read_csv(path)
    wanted = kb.report.suspects(SCORES, ids=names)
    pandas.testing.assert_frame_equal(table, wanted)
    assert table["id"][0] == names[3] and table["score"][0] == -0.5


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_text_is_a_formula(start, tmp_path):
    text = start + 'HYPERLINK("http://example.org")'
    path = tmp_path / "suspects.csv"
    kb.report.write_csv(
        SCORES,
        path,
        [0, 1, 0, 1, 0],
        ids=[text] * 5,
        class_names=[text, "dog"],
        **{text: [text] * 5, "number": -np.arange(5)},
    )
    with open(path, newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert text not in cells and "'" + text in cells
    for cell in cells:
        is_number = cell.replace(".", "").removeprefix("-").isdigit()
        assert is_number or not cell.startswith(start)


def cells_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_no_object_is_a_formula(tmp_path):
    class Formula:
        def __str__(self):
            return "=1+1"

    path = tmp_path / "suspects.csv"
    ids = np.array([pathlib.PurePosixPath("=HYPERLINK(1)")] * 5, object)
    kb.report.write_csv(
        SCORES,
        path,
        ids=ids,
        mine=np.array([Formula()] * 5, object),
        raw=np.array([b"=1"] * 5),
    )
    for row in cells_of(path):
        assert row["id"] == "'=HYPERLINK(1)" and row["mine"] == "'=1+1"
        assert row["raw"] == "b'=1'"


def test_numbers_dates_and_nothing_stay(tmp_path):
    path = tmp_path / "suspects.csv"
    columns = {
        "minus": [-1, -2, -3, -4, -5],
        "flag": [True] * 5,
        "none": np.array([None, -1.5, np.nan, True, "a"], object),
        "day": np.array([datetime.date(2020, 1, 2)] * 5, object),
        "time": np.array(["2020-01-02"] * 5, "datetime64[s]"),
    }
    kb.report.write_csv(SCORES, path, **columns)
    wanted = tmp_path / "wanted.csv"
    kb.report.suspects(SCORES, **columns).to_csv(wanted, index=False)
    assert path.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("kind", [str, pathlib.PurePosixPath])
def test_names_that_are_not_utf_8(kind, tmp_path):
    name = os.fsdecode(b"\xff.png")
    path = tmp_path / "suspects.csv"
    ids = np.array([kind(name)] * 5, object)
    kb.report.write_csv(
        SCORES, path, [0] * 5, ids=ids, class_names=[name], source=[name] * 5
    )
    for row in cells_of(path):
        for column in ("id", "label", "source"):
            assert row[column] == r"\udcff.png"
