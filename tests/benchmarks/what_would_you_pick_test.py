"""The table of what one would pick: its plan, its choice, its methods."""

import pytest
from absl import flags

from benchmarks import comparators
from benchmarks import methods
from benchmarks import render
from benchmarks import training
from benchmarks import what_would_you_pick as pick

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test"])


@pytest.mark.parametrize("name", pick.PRESETS)
def test_the_plan_has_each_run_once_and_whole_cases_first(name):
    preset = pick.PRESETS[name]
    plan = pick._plan(preset, [])
    rates, seeds = preset["num_rates"], len(preset["seeds"])
    size = len(pick.ROWS) * rates * seeds
    assert len(plan) == size * len(preset["cases"])
    assert {s["case"] for s in plan[:size]} == {preset["cases"][0]}
    assert len({str(s) for s in plan}) == len(plan)


def test_each_row_has_a_method():
    for changes in pick.ROWS.values():
        assert changes["method"] in training.METHODS
    assert not set(methods.METHODS) & set(comparators.METHODS)


@pytest.mark.parametrize(
    "row",
    [
        "mixup",
        "Sukhbaatar",
        "early-learning regularisation",
        "prune and retrain",
    ],
)
def test_a_short_run_has_all_that_the_table_shows(row):
    preset = pick.PRESETS["quick"]
    case = preset["cases"][0]
    (settings,) = pick._settings(preset, case, row, pick.ROWS[row], 0)
    settings |= {"epochs": 2}
    found = training.run(settings)
    assert 0.1 < found["test"] <= 1.0
    assert 0.0 <= found["suspect_auroc"] <= 1.0
    trainings = 5 if row == "prune and retrain" else 1
    assert found["all_steps"] >= trainings * 2 * (found["steps"] // 2 - 2)
    assert found["processor_seconds"] > 0


def test_the_rate_is_chosen_on_noisy_labels():
    preset = pick.PRESETS["paper"]
    case = preset["cases"][0]
    settings = pick._settings(preset, case, "plain", pick.ROWS["plain"], 0)
    numbers = {
        "best_test": 0.5,
        "suspect_auroc": 0.5,
        "processor_seconds": 2.0,
        "all_steps": 3,
    }
    records = [
        {"settings": s, "seed": 0, "metrics": {**numbers, **found}}
        for s, found in zip(
            settings,
            [
                {"validation": 0.4, "test": 0.9},
                {"validation": 0.5, "test": 0.8},
            ],
        )
    ]
    report = pick._report(records)
    assert [row[2] for row in report.table[1:]] == ["0.1"]
    assert "| 0.800 |" in render.as_markdown(report.table)
