"""Searched schedules, and the methods that they are compared with."""

import numpy as np
import pytest

from benchmarks import methods
from benchmarks import plans
from benchmarks import render
from benchmarks import s2e
from benchmarks import schedule_search
from benchmarks import training

SMALL = {
    "dataset": "digits",
    "num_train": 400,
    "num_clean": 50,
    "noise": 0.4,
    "epochs": 3,
}


@pytest.mark.parametrize("method", sorted(s2e.METHODS))
def test_every_method_trains(method):
    schedule = None
    if method in s2e.WITH_SCHEDULE:
        schedule = plans.co_teaching_schedule(0.4, 3)
    settings = plans.selection(**SMALL, method=method, schedule=schedule)
    metrics = training.run(settings)
    assert 0.1 < metrics["test"] <= 1.0
    assert ("precision" in metrics) == (method in methods.RULES)


def test_search_finds_the_schedule_of_its_best_trial():
    settings = plans.search(
        **SMALL, space="Co-teaching", algorithm="random", trials=3, seed=1
    )
    metrics = schedule_search.run(settings)
    assert len(metrics["values"]) == 3
    assert metrics["best"] == max(metrics["values"])
    found = methods.schedule_of(metrics)
    assert 0 <= found.tau <= 1
    again = schedule_search.run(settings)
    assert again["values"] == metrics["values"]


def test_report_tells_whose_schedule_it_is(tmp_path):
    found = [
        {
            "settings": plans.search(**SMALL, **search, trials=2, seed=100),
            "metrics": {
                "schedule": schedule,
                "trial_epochs": 6,
                "search_seconds": 1.0,
                "best": 0.5,
            },
        }
        for search, schedule in zip(
            s2e.SEARCHES,
            (
                {
                    "name": "S2ESchedule",
                    "alpha": [1, 0, 0, 0],
                    "beta": np.full((4, 4), 0.5).tolist(),
                    "epochs": 3,
                },
                {"name": "CoTeachingSchedule", "tau": 0.3, "t_k": 2},
            ),
        )
    ]
    plan = s2e._final_plan({"seeds": [0], "cases": [SMALL]}, found)
    names = [s2e._method(settings) for settings in plan]
    assert names == [*s2e.METHODS.values(), "S2E", "Co-teaching, tuned"]
    curves = {"epoch": [1, 2, 3], "test": [0.1, 0.2, 0.3]}
    finals = [
        {
            "settings": settings,
            "metrics": {
                "test": 0.3,
                "best_test": 0.3,
                "train_given": 0.2,
                "precision": 0.8,
                "curves": curves,
            },
        }
        for settings in plan
    ]
    report = s2e._methods_report(found + finals)
    assert len(report.table) == 1 + len(plan)
    render.write(report, tmp_path, "s2e")
    assert (tmp_path / "s2e.png").exists()
