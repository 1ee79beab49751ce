"""The report on averaged weights."""

import pathlib

from benchmarks import averaging
from benchmarks import runner
from benchmarks.journal import Journal

KEPT = pathlib.Path(averaging.__file__).parent / "results/averaging.jsonl"


def test_report_has_a_row_for_each_method_of_the_kept_records():
    def no_more_runs(settings):
        raise AssertionError(f"Not in the journal: {settings}")

    records = runner.execute(
        averaging.EXPERIMENT,
        averaging.PRESETS["paper"],
        Journal(KEPT),
        no_more_runs,
    )
    header, *rows = averaging.EXPERIMENT.report(records).table
    # Two data sets, two kinds of labels, three methods, with and without.
    assert len(rows) == 24
    averaged = [row for row in rows if row[2].endswith(", averaged")]
    assert len(averaged) == 12
    assert all("-" not in row[3:] for row in rows)
