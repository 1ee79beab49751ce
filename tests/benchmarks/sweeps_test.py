"""The sweeps: their plan, what a row changes, their report."""

import keras
import numpy as np
import pytest

from benchmarks import plans
from benchmarks import runner
from benchmarks import sweeps
from benchmarks import tasks
from benchmarks import training
from benchmarks.journal import Journal

TINY = {
    "network": "mlp",
    "sizes": [
        {"num_train": 640, "epochs": 1, "every": 1},
        {"num_train": 320, "epochs": 2, "every": 1},
    ],
    "noises": [0.0, 0.5],
    "seeds": [0, 1],
}


def _runs(preset):
    return sweeps._plan(sweeps.PRESETS[preset], [])


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_no_run_is_made_twice_and_each_is_shown(preset):
    runs = _runs(preset)
    assert len({str(run) for run in runs}) == len(runs)
    for run in runs:
        is_predicted = run["noise_kind"] == "predicted"
        assert bool(sweeps.places(run)) != is_predicted


def test_a_row_changes_one_thing_of_the_baseline():
    assert sweeps.changed(sweeps.bilevel()) == ("baseline", None)
    for name, values in sweeps.SWEEPS.items():
        for value in values:
            found = sweeps.bilevel(**{name: value})
            assert sweeps.changed(found) == (name, value)


def test_with_more_shards_a_step_has_as_many_examples():
    for count in sweeps.SWEEPS["shards"]:
        found = sweeps.bilevel(shards=count)
        assert found["num_shards"] == count
        assert found["batch_size"] == sweeps.bilevel()["batch_size"]
    for size in sweeps.SWEEPS["shard size"]:
        found = sweeps.bilevel(**{"shard size": size})
        assert found["batch_size"] == 8 * size and found["num_shards"] == 8


def test_a_baseline_stands_in_each_sweep_at_its_value():
    settings = plans.NOISY | sweeps.bilevel() | {"dataset": "cifar10"}
    found = {panel: x for panel, _, x in sweeps.places(settings)}
    assert found == {
        "share of wrong labels, cifar10": 0.5,
        "validation ratio": 0.0,
        "shards": 8,
        "shard size": 16,
        "mu": 0.01,
    }


def test_validation_ratio_reaches_the_model():
    settings = plans.noisy(num_train=640, epochs=1, batch_size=128)
    ratios = [
        training.run(settings | sweeps.bilevel(**{"validation ratio": ratio}))
        for ratio in (None, 0.5)
    ]
    # Where half of the data only validate, an epoch has fewer steps.
    assert ratios[1]["steps"] < ratios[0]["steps"]


def test_predicted_labels_are_a_networks_and_are_the_same_again():
    settings = plans.noisy(num_train=320, network="cnn")
    settings |= sweeps.PREDICTED
    settings["teacher"] = {"learning_rate": 0.1, "epochs": 10}
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(0)  # As each run does.
        found.append(tasks.make(settings))
    np.testing.assert_array_equal(found[0].y_given, found[1].y_given)
    assert 0 < found[0].wrong.mean() < 0.5


def test_the_report_has_a_row_for_each_setting(tmp_path):
    def run(settings):
        names = ("test", "train_given", "gap", "best_test", "wrong")
        return dict.fromkeys(names, 0.5 + settings["seed"] / 8)

    journal = Journal(tmp_path / "sweeps.jsonl")
    records = runner.execute(sweeps.EXPERIMENT, TINY, journal, run)
    report = sweeps.EXPERIMENT.report(records)
    header, *rows = report.table
    assert 2 * len(rows) == len(records)
    assert {row[header.index("test (clean)")] for row in rows} == {
        "0.562 ± 0.088"
    }
    assert len(report.figure.axes) == 2 * (len(sweeps.SWEEPS) + 2)
