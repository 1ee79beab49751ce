"""Both sides of the race with PyTorch do the same."""

import numpy as np
import pytest
from absl import app

import keras_bilevel as kb
from benchmarks import costs
from benchmarks import race

SIZE, TARGET = 24, 8
WEIGHTINGS = {
    "shard_by_shard": lambda: kb.weighting.DeepBilevel(4),
    "shards_by_vmap": lambda: kb.weighting.DeepBilevel(4),
    "one_by_one": lambda: kb.weighting.Soseleto(SIZE, initial=0.5),
    "examples_by_vmap": lambda: kb.weighting.Soseleto(SIZE, initial=0.5),
    "reweight": kb.weighting.LearningToReweight,
}


@pytest.mark.parametrize("way", WEIGHTINGS)
def test_a_step_is_that_of_this_package(way):
    torch = pytest.importorskip("torch", reason="PyTorch is not required")
    from benchmarks import torch_methods

    size = SIZE + TARGET * ("shard" not in way)
    x, y = costs.batch(size, (784,))
    network = costs.network("mlp")
    twin = torch_methods.network("mlp")
    with torch.no_grad():
        for parameter, value in zip(twin.parameters(), network.get_weights()):
            parameter.copy_(torch.from_numpy(value.T))
    model = costs.compiled(kb.BilevelModel(network, WEIGHTINGS[way]()))
    batch = (x, y)
    if size > SIZE:
        ids = np.arange(SIZE)
        batch = (x[:SIZE], y[:SIZE], ids), (x[SIZE:], y[SIZE:])
    model.fit(costs.repeated(batch), verbose=0)
    part = SIZE if size > SIZE else 4
    trainer = torch_methods.Trainer(
        [twin], (torch.from_numpy(x), torch.from_numpy(y)), part
    )
    before = [p.detach().clone() for p in twin.parameters()]
    getattr(trainer, way)()
    for old, new, ours in zip(before, twin.parameters(), network.get_weights()):
        new = new.detach().numpy().T
        assert np.abs(new - old.numpy().T).max() > 1e-4
        np.testing.assert_allclose(ours, new, atol=1e-6)


def test_the_plan_leaves_out_what_cannot_run():
    plan = race._plan(race.PRESETS["paper"])
    assert len({tuple(sorted(s.items())) for s in plan}) == len(plan)
    ways = {s["way"] for s in plan if s["network"] == "cnn_bn"}
    assert ways == {"plain", "shard_by_shard", "reweight", "co_teaching"}
    assert all(s["size"] <= 256 for s in plan if s["way"] == "one_by_one")


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(race.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(app.UsageError, match="pip install torch"):
        race._choose()


def test_the_report_counts_where_we_are_ahead():
    records = [
        {
            "settings": {**settings, "seed": 0},
            "metrics": {
                "cpu_ratio": ratio,
                "wall_ratio": ratio,
                "ms": 1.0,
                "plain_ms": 1.0,
                "first_ours": 1.0,
                "first_theirs": 1.0,
            },
        }
        for settings, ratio in zip(
            race._plan(race.PRESETS["quick"]), [0.5, 2.0] * 40
        )
    ]
    report = race._report(records)
    assert any("plain, plain: ahead in" in note for note in report.notes)
    assert len(report.table) == 1 + len(records)
