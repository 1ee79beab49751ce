"""The points are as many, and as wrong, as the paper says."""

import json
import types

import numpy as np
import pytest

from benchmarks import soseleto_synthetic

# Keras' callbacks and NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def _settings(**changes):
    return {**soseleto_synthetic.COMMON, "seed": 0, **changes}


def test_points_have_the_wrong_labels_they_were_asked_for():
    task = soseleto_synthetic.points(_settings())
    x, y = task.x, task.y_given
    assert x.shape == (500, 2) and np.abs(x).max() <= 1
    assert task.wrong.sum() == 100
    np.testing.assert_array_equal(y != (x[:, 0] > 0), task.wrong)


@pytest.mark.parametrize("name, size", [("clean", 50), ("evaluation", 10_000)])
def test_target_and_test_points_are_clean(name, size):
    x, y = getattr(soseleto_synthetic.points(_settings()), name)
    assert len(x) == size
    np.testing.assert_array_equal(y, x[:, 0] > 0)


def test_seed_decides_on_the_points():
    first, again, other = (
        soseleto_synthetic.points(_settings(seed=seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.wrong, again.wrong)
    assert not np.array_equal(first.x, other.x)
    assert not np.array_equal(first.wrong, other.wrong)


def test_threshold_tells_points():
    task = types.SimpleNamespace(
        wrong=np.array([True, True, False, False]),
        x=np.array([[0.5, 0], [0.05, 0], [0.05, 0], [0.5, 0]]),
    )
    told = soseleto_synthetic._told(task, np.array([0.0, 0.2, 0.05, 1.0]))
    assert (told["told"], told["told_wrong"], told["missed"]) == (2, 1, 2)
    assert told["told_near"] == 2
    assert told["clean_weight"] == pytest.approx(0.525)
    assert told["noisy_weight"] == pytest.approx(0.1)


def test_run_and_report():
    settings = _settings(epochs=2)
    metrics = soseleto_synthetic.run(settings)
    records = 2 * [{"seed": 0, "settings": settings, "metrics": metrics}]
    assert metrics["told"] + metrics["missed"] == 500
    assert len(metrics["alpha"]) == 500
    assert metrics["curves"]["epoch"] == [0, 1, 2]
    assert metrics["curves"]["mean_clean"][0] == 0.5
    # Even two epochs move right and wrong labels apart.
    assert metrics["clean_weight"] > metrics["noisy_weight"]
    json.dumps(records, allow_nan=False)
    report = soseleto_synthetic.EXPERIMENT.report(records)
    assert len({len(row) for row in report.table}) == 1
    assert len(report.figure.axes) == 5
