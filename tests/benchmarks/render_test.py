"""Means and deviations on known numbers."""

import math

import pytest

from benchmarks import figures
from benchmarks import plans
from benchmarks import render


def _record(seed, test, **changes):
    curves = {"epoch": [1, 2], **{name: [0.1, test] for name in figures.STYLES}}
    return {
        "settings": plans.noisy(seed=seed, **changes),
        "metrics": {"test": test, "curves": curves},
    }


RECORDS = [
    _record(0, 0.5),
    _record(1, 0.7),
    _record(0, 0.9, **plans.bilevel(32)),
]


def test_spread_is_the_mean_and_the_sample_deviation():
    assert render.spread([0.5, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    assert math.isnan(render.spread([0.5])[1])


def test_table_has_a_row_for_runs_that_differ_in_their_seed():
    rows = render.table(
        RECORDS, {"method": render.method}, {"test": "test", "gap": "gap"}
    )
    assert rows == [
        ["method", "test", "gap", "runs"],
        ["SGD, batch 128", "0.600 ± 0.141", "-", "2"],
        ["Deep Bilevel, 32 shards of 4", "0.900", "-", "1"],
    ]


def test_text_and_markdown_show_the_same_cells():
    rows = [["a", "bb"], ["ccc", "d"]]
    assert render.as_text(rows) == "a    bb\nccc  d\n"
    assert (
        render.as_markdown(rows) == "| a | bb |\n| --- | --- |\n| ccc | d |\n"
    )


def test_report_is_written_with_its_figure(tmp_path):
    figure = figures.curves(RECORDS, lambda s: s["dataset"], render.noise)
    lines = figure.axes[0].get_lines()
    assert lines[0].get_ydata() == pytest.approx([0.1, 0.6])
    report = render.Report("Title", [["a"], ["b"]], ["Note."], figure)
    render.write(report, tmp_path, "example")
    assert "- Note.\n" in (tmp_path / "example.md").read_text()
    assert (tmp_path / "example.png").stat().st_size > 1000
