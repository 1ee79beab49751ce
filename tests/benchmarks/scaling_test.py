"""Scaling in the benchmark room."""

from benchmarks import render
from benchmarks import scaling

TINY = {
    "network": "small_cnn",
    "replicas": 1,
    "num_shards": 4,
    "shard_size": 1,
    "pairs": 1,
}


def count(way):
    settings = {"network": "mlp", "replicas": 2, "way": way}
    return scaling._bytes(settings)


def test_bytes_are_those_of_one_gradient_more():
    plain, ours = count("plain"), count("Deep Bilevel")
    gradient = 4 * (784 * 256 + 256 + 256 * 10 + 10)
    assert plain["gradient_bytes"] == ours["gradient_bytes"] == gradient
    assert plain["reduced_bytes"] == gradient
    # The sum of |w| for the weights, those of |w| and of w^2 for the logs.
    assert ours["reduced_bytes"] == 2 * gradient + 3 * 4
    assert ours["small_bytes"] == 3 * 4
    assert ours["gathered_bytes"] == 0


def test_examples_send_a_few_numbers_each():
    found = count("SOSELETO")
    assert 2 <= found["gradients"] < 2.001
    # An id and an alignment each, and how many there are.
    share = scaling.SOURCE // 2
    assert found["gathered_bytes"] == share * (8 + 4) + 2 * 4


def test_nothing_is_gathered_where_nothing_is_remembered():
    assert count("Learning to Reweight")["gathered_bytes"] == 0


def test_two_networks_send_no_more_than_their_gradients():
    found = count("Co-teaching, two networks")
    assert 1 <= found["gradients"] < 1.001


def test_steps_are_timed():
    metrics = scaling.EXPERIMENT.run(
        {**TINY, "kind": "overhead", "seed": 0}, None, 0
    )
    assert metrics["cpu_ratio"] > 0


def test_report_has_a_row_for_each_setting(tmp_path):
    plan = scaling._plan(scaling.PRESETS["paper"])
    names = [scaling._describe(settings) for settings in plan]
    assert len(set(names)) == len(names)
    metrics = {
        "cpu_ratio": 1.1,
        "wall_ratio": 1.2,
        "per_work": 1.0,
        "ms": 2.0,
        "plain_ms": 2.0,
        "peak_mb": 100.0,
        "plain_peak_mb": 90.0,
    }
    records = [{"settings": s, "metrics": metrics} for s in plan]
    report = scaling._report(records)
    assert len(report.table) == 1 + len(plan)
    render.write(report, tmp_path, "scaling")
    assert (tmp_path / "scaling.png").exists()
