"""Runs are made once, stage after stage."""

import pytest

from benchmarks import plans
from benchmarks import runner
from benchmarks.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "results.jsonl")


def _experiment(*stages):
    return runner.Experiment("example", {}, stages, report=None)


def _plan(preset, records):
    return [plans.noisy(seed=seed) for seed in preset["seeds"]]


def test_resumes_where_it_was_interrupted(journal):
    made = []

    def run(settings):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(settings["seed"])
        return {"test": 0.5}

    experiment, preset = _experiment(_plan), {"seeds": [0, 1, 2]}
    with pytest.raises(KeyboardInterrupt):
        runner.execute(experiment, preset, journal, run)
    made[:] = made[:1]
    records = runner.execute(experiment, preset, journal, run)
    assert made == [0, 2]
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert records[0]["versions"].keys() >= {"keras", "tensorflow"}


def test_what_is_done_is_reported_when_time_is_up(journal):
    def run(settings):
        if settings["seed"]:
            raise runner.TimeIsUp
        return {"test": 0.5}

    preset = {"seeds": [0, 1, 2]}
    records = runner.execute(_experiment(_plan), preset, journal, run)
    assert [record["seed"] for record in records] == [0]


def test_a_stage_gets_the_records_of_those_before(journal):
    def best(preset, records):
        chosen = max(records, key=lambda r: r["metrics"]["test"])["settings"]
        return [{**chosen, "held_out": 0.5}]

    records = runner.execute(
        _experiment(_plan, best),
        {"seeds": [3, 5, 4]},
        journal,
        lambda settings: {"test": settings["seed"] / 10},
    )
    assert [record["seed"] for record in records] == [3, 5, 4, 5]


def test_parts_share_the_runs_and_wait_for_each_other(journal):
    experiment, preset = _experiment(_plan), {"seeds": [0, 1, 2]}

    def run(settings):
        return {"test": 0.5}

    assert runner.execute(experiment, preset, journal, run, part=(1, 2)) == []
    assert len(journal.find(_plan(preset, []))) == 1
    assert len(runner.execute(experiment, preset, journal, run)) == 3


@pytest.mark.parametrize(
    "words, seeds",
    [(["3"], [0, 1, 2]), (["0", "4"], [0, 4]), (["4", ""], [4])],
)
def test_seeds_are_a_count_or_a_list(words, seeds):
    assert runner.parse_seeds(words) == seeds


def test_wrong_part_is_an_error():
    assert runner.parse_part("2/3") == (1, 3)
    with pytest.raises(ValueError, match="--part"):
        runner.parse_part("0/3")


def test_progress_tells_runs_by_what_they_differ_in():
    plan = [plans.noisy(seed=seed, noise=0.2) for seed in (0, 4)]
    assert [runner.label(settings, plan) for settings in plan] == [
        "seed 0",
        "seed 4",
    ]
