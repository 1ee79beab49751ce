"""The guard compares with what is committed."""

import pytest

from benchmarks import guard


@pytest.mark.parametrize(
    "name, kind", [("speed", "step"), ("speed_examples", "fit")]
)
def test_committed_records_have_ratios(name, kind):
    records = guard.records_of(name, kind)
    assert len(records) > 3
    assert all(r["metrics"]["cpu_ratio"] > 0 for r in records)


def test_a_row_tells_the_change():
    assert guard.row("a", 1.6, 1.2) == ["a", "1.60", "1.20", "-25%"]
