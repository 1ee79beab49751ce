"""The harness of all costs."""

import time

import pytest

from benchmarks import costs


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
