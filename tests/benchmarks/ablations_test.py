"""The ablations: their plan, what a row changes, their report."""

import numpy as np
import pytest

import keras_bilevel as kb
from benchmarks import ablations
from benchmarks import plans
from benchmarks import runner
from benchmarks import tasks
from benchmarks import training
from benchmarks.journal import Journal

ALL_ROWS = 2 * len(ablations.ROWS) + len(ablations.PERMUTED_ROWS)
TINY = {
    "networks": {"mlp": [0.01, 0.1]},
    "size": {"num_train": 160, "epochs": 1, "every": 1},
    "seeds": [0, 1],
}


@pytest.mark.parametrize("name, rates", [("quick", 2), ("paper", 1)])
def test_a_rate_is_chosen_where_there_are_several(name, rates):
    preset = ablations.PRESETS[name]
    choice = ablations._choice_plan(preset, [])
    networks = len(preset["networks"])
    assert len(choice) == (rates > 1) * rates * networks * ALL_ROWS
    assert all(settings["held_out"] for settings in choice)
    records = [
        {"settings": s, "metrics": {"held_out": s["learning_rate"]}}
        for s in choice
    ]
    final = ablations._final_plan(preset, records)
    assert len(final) == len(preset["seeds"]) * networks * ALL_ROWS
    assert len({str(settings) for settings in final}) == len(final)
    for settings in final:
        best = max(preset["networks"][settings["network"]])
        assert settings["learning_rate"] == best
        assert not settings["held_out"]


def test_a_row_changes_one_thing_of_the_papers_baseline():
    baseline = kb.weighting.DeepBilevel(**_options(ablations.BASELINE))
    for row in list(ablations.ROWS)[2:]:
        weighting = kb.weighting.DeepBilevel(**_options(row))
        found = weighting.get_config().items() - baseline.get_config().items()
        stratified = "stratify_by" not in ablations.ROWS[row]
        assert len(found) == (1 if stratified else 0)


def _options(row):
    return ablations.ROWS[row]["weighting"]


@pytest.mark.parametrize("row", ablations.ROWS)
def test_each_row_trains_in_its_own_way(row, monkeypatch):
    monkeypatch.setitem(ablations.COMMON, "dataset", "digits")
    models, make = [], kb.BilevelModel

    def observed(*args, **options):
        models.append(make(*args, **options))
        return models[-1]

    monkeypatch.setattr(kb, "BilevelModel", observed)
    settings = next(
        settings
        for settings in ablations._runs(TINY, seed=0, held_out=0.0)
        if settings["row"] == row
    )
    assert 0.0 < training.run(settings)["test"] < 1.0
    if row != "SGD":
        (model,) = models
        found = model.weighting.get_config()
        assert found.items() >= _options(row).items()
        assert (model.stratify_by is None) == row.startswith("c)")


def test_permuted_pixels_stay_and_differ_from_image_to_image():
    settings = plans.noisy(num_train=160, noise=0.0)
    plain = tasks.make(settings)
    task = tasks.make(settings | {"permuted": True})
    again = tasks.make(settings | {"permuted": True})
    for images, permuted, same in (
        (plain.x, task.x, again.x),
        (plain.evaluation[0], task.evaluation[0], again.evaluation[0]),
    ):
        np.testing.assert_array_equal(permuted, same)
        assert not np.array_equal(images, permuted)
        np.testing.assert_array_equal(
            np.sort(images.reshape(len(images), -1)),
            np.sort(permuted.reshape(len(images), -1)),
        )
    np.testing.assert_array_equal(task.y_given, plain.y_given)


def test_the_report_pairs_seeds_and_names_what_loses(tmp_path):
    def run(settings):
        seed, row = settings["seed"], settings["row"]
        test = {"SGD": 0.5, ablations.BASELINE: 0.25}.get(row, 0.75)
        test += seed / 8
        if settings["held_out"]:
            return {"held_out": settings["learning_rate"]}
        curves = {"epoch": [1], "test": [test], "train_given": [test]}
        names = ("test", "train_given", "gap", "best_test")
        return {**dict.fromkeys(names, test), "curves": curves}

    journal = Journal(tmp_path / "ablations.jsonl")
    records = runner.execute(ablations.EXPERIMENT, TINY, journal, run)
    report = ablations._report(records)
    header, *rows = report.table
    assert len(rows) == ALL_ROWS
    assert {row[header.index("rate")] for row in rows} == {"0.1"}
    sgd = rows[0]
    ahead = header.index("against the baseline")
    assert sgd[ahead : ahead + 2] == ["0.250 ± 0.000", "+0.002"]
    assert (
        sgd[header.index("held out (given)")] == "0.010 at 0.01, 0.100 at 0.1"
    )
    (behind,) = [note for note in report.notes if note.startswith("Behind")]
    assert behind.count(ablations.BASELINE) == len(ablations.DATA)
    assert "a)" not in behind
