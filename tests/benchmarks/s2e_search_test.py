"""The search on objectives that cost no training."""

import numpy as np
import pytest

from benchmarks import s2e_search


def settings(**changes):
    return {
        "split": "development",
        "kind": "schedule",
        "method": "random",
        "trials": 12,
        "noise": s2e_search.NOISE,
        "seed": 0,
    } | changes


def test_problems_of_the_splits_differ():
    share = np.linspace(1, 0.5, s2e_search.EPOCHS)
    values = {
        s2e_search.objective(settings(split=split, kind=kind, seed=seed))(share)
        for split in ("development", "held_out")
        for kind in s2e_search.KINDS
        for seed in range(5)
    }
    assert len(values) == 20


def test_toy_training_asks_for_a_schedule():
    """Keeping all memorizes, keeping nothing learns nothing."""
    t = np.arange(s2e_search.EPOCHS)
    for seed in range(5):
        error = s2e_search.objective(settings(kind="training", seed=seed))
        falling = min(
            error(1 - tau * np.minimum(t / t_k, 1))
            for tau in (0.2, 0.4, 0.6)
            for t_k in (3, 10, 25)
        )
        assert falling < error(np.ones(30)) < error(np.zeros(30)) == 1


@pytest.mark.parametrize(
    "method", ["random", "BayesianOptimization", s2e_search.DEFAULT]
)
def test_runs_are_reproducible(method):
    first, second = (s2e_search.run(settings(method=method)) for _ in range(2))
    assert first == second
    assert len(first["best"]) == 12
    assert first["final"] == first["best"][-1]


def test_report():
    plan = s2e_search._plan(
        {"split": "held_out", "seeds": [0], "trials": 24}, []
    )
    records = [
        {
            "settings": s,
            "metrics": {"best": [2.0 if s["method"] == "random" else 1.0] * 24},
        }
        for s in plan
    ]
    report = s2e_search._report(records)
    rows = {row[0]: row for row in report.table}
    assert rows[s2e_search.DEFAULT][1] == "1.0000 (-50%)"
    assert rows[s2e_search.DEFAULT][-2:] == ["2 of 2", "0 of 2"]
    assert len(report.table) == 1 + len(s2e_search.METHODS)
