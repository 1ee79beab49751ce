"""The harness of all costs."""

import time

import pytest

from benchmarks import costs
from benchmarks import speed


def test_ratios_are_those_of_the_first_side_to_the_second():
    def work(times):
        def spin():
            end = time.process_time() + 0.005 * times
            while time.process_time() < end:
                pass

        return spin

    metrics = costs.compare(work(3), work(1), pairs=3, per=5)
    assert metrics["cpu_ratio"] == pytest.approx(3.0, rel=0.2)


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch):
    settings = {"network": "mlp", "num_shards": 4, "shard_size": 2}
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    metrics = costs.in_fresh_process("speed", settings)
    assert metrics["peak_mb"] > 0 and metrics["first_step"] > 0


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_besides_is_fit_less_its_steps(monkeypatch):
    # Of ours `fit` and steps, and then those of plain Keras.
    times = iter([(7.0, 8.0), (5.0, 5.0), (4.0, 5.0), (3.0, 3.0)])
    monkeypatch.setattr(costs, "timed", lambda call: (call(), next(times))[1])
    settings = {
        "kind": "besides",
        "network": "mlp",
        "num_shards": 4,
        "shard_size": 2,
        "steps": 2,
        "pairs": 1,
        "seed": 0,
    }
    found = speed.EXPERIMENT.run(settings, data_dir=None, verbose=0)
    assert found["cpu_ratio"] == 2.0 and found["wall_ratio"] == 1.5
    assert found["ms"] == 1500.0 and found["plain_ms"] == 1000.0
