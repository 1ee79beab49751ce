"""What counts as a stable rate."""

import pytest

from benchmarks import steadiness


def _records(ran_away):
    return [
        {"settings": {"learning_rate": rate}, "metrics": {"ran_away": away}}
        for rate, away in ran_away
    ]


@pytest.mark.parametrize(
    "ran_away, stable",
    [
        ([(0.1, False), (0.01, False)], 0.1),
        # One of two seeds; and what lies above does not count.
        ([(0.01, False), (0.1, False), (0.1, True), (0.3, False)], 0.01),
        ([(0.01, True), (0.1, False)], None),
    ],
)
def test_largest_stable_rate(ran_away, stable):
    assert steadiness.largest_stable_rate(_records(ran_away)) == stable
