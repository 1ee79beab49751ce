"""Sample selection in the benchmark room."""

import numpy as np
import pytest

from benchmarks import render
from benchmarks import s2e
from benchmarks import schedule_search
from benchmarks import selection

SMALL = {
    "dataset": "digits",
    "num_train": 400,
    "num_clean": 50,
    "noise": 0.4,
    "epochs": 3,
}


def test_anchored_confusion_is_that_of_typical_examples():
    true = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    rng = np.random.default_rng(0)
    # Nobody is as sure as the typical examples of a class.
    blur = rng.uniform(0.0, 0.9, (3000, 1))
    probabilities = (1 - blur) * true[np.arange(3000) % 3] + blur / 3
    found = selection.anchored_confusion(probabilities)
    np.testing.assert_allclose(found, true, atol=0.03)


def test_rate_is_constant_and_then_falls_to_zero():
    settings = selection.settings(epochs=200, learning_rate=0.001)
    decay = selection.options(settings, 0)["callbacks"][0]
    rates = [decay.schedule(epoch) for epoch in (0, 80, 140, 199)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 1e-3 / 120])


@pytest.mark.parametrize("method", sorted(selection.METHODS))
def test_every_method_trains(method):
    schedule = None
    if method in s2e.WITH_SCHEDULE:
        schedule = selection.co_teaching_schedule(0.4, 3)
    settings = selection.settings(**SMALL, method=method, schedule=schedule)
    metrics = selection.run(settings)
    assert 0.1 < metrics["test"] <= 1.0
    assert ("precision" in metrics) == (method in selection.RULES)


def test_clean_set_is_apart_from_training_data():
    task, (x, y) = selection.split(selection.settings(**SMALL), None)
    rows = {image.tobytes() for image in task.x}
    assert (len(task.x), len(x)) == (400, 50)
    assert not any(image.tobytes() in rows for image in x)


def test_search_finds_the_schedule_of_its_best_trial():
    settings = s2e._search(
        SMALL, 3, {"space": "Co-teaching", "algorithm": "random"}, 1
    )
    metrics = schedule_search.run(settings)
    assert len(metrics["values"]) == 3
    assert metrics["best"] == max(metrics["values"])
    found = selection.schedule_of(metrics)
    assert 0 <= found.tau <= 1
    again = schedule_search.run(settings)
    assert again["values"] == metrics["values"]


def test_report_tells_whose_schedule_it_is(tmp_path):
    found = [
        {
            "settings": s2e._search(SMALL, 2, search, 100),
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
    assert names == [*selection.METHODS.values(), "S2E", "Co-teaching, tuned"]
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
