"""All methods make the same steps, and a clean set helps to find noise."""

import pytest

from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import soseleto
from benchmarks import training

TINY = {
    "dataset": "digits",
    "num_source": 400,
    "num_target": 100,
    "network": "mlp",
    "source_size": 64,
    "target_size": 16,
    "epochs": 5,
    "every": 5,
}


@pytest.fixture(scope="module")
def metrics():
    return {
        method: training.run(
            plans.source_target(**TINY, method=method, alpha_lr=1.0)
        )
        for method in soseleto.METHODS
    }


def test_all_methods_make_the_same_steps(metrics):
    steps = {name: run["steps"] for name, run in metrics.items()}
    # Fine-tuning's second part, a fifth of them, is counted by itself.
    assert steps.pop("finetune") == 6
    # Four networks on three quarters of the source set each.
    assert steps.pop("folds") == 4 * 5 * 5
    assert set(steps.values()) == {30}


def test_scores_find_wrong_labels_better_than_chance(metrics):
    scores = metrics["soseleto"]
    for name in ("alpha", "cumulative", "history", "loss"):
        assert scores[f"auroc_{name}"] > 0.6
    assert scores["noise_left"] < 0.9
    assert "auroc_alpha" not in metrics["noisy"]
    assert metrics["folds"]["auroc_out_of_sample"] > 0.6


def test_report_has_a_row_for_each_method(metrics):
    records = [
        {
            "settings": plans.source_target(
                **TINY, method=method, alpha_lr=1.0
            ),
            "metrics": run,
        }
        for method, run in metrics.items()
    ]
    report = soseleto.EXPERIMENTS["noise"].report(records)
    assert len(report.table) == 1 + len(metrics)
    assert render.as_markdown(report.table).count("digits") == len(metrics)


@pytest.mark.parametrize("name", list(soseleto.EXPERIMENTS))
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_are_valid_settings(name, preset):
    experiment = soseleto.EXPERIMENTS[name]
    choose, finish = experiment.stages
    choice = choose(experiment.presets[preset], [])
    records = [
        {"settings": s, "metrics": {"held_out": s["alpha_lr"]}} for s in choice
    ]
    final = finish(experiment.presets[preset], records)
    best = max([s["alpha_lr"] for s in choice], default=1.0)
    assert {s["alpha_lr"] for s in final} == {None, best}
    plan = choice + final
    assert len({str(settings) for settings in plan}) == len(plan)
    assert all(runner.label(settings, plan) for settings in plan)
