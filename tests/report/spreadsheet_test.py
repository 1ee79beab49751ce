"""The table of all suspects as a file."""

import csv

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
