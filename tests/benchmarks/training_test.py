"""Both methods train on the same terms."""

import math

import numpy as np
import pytest

from benchmarks import networks
from benchmarks import plans
from benchmarks import training

# Keras' own `LearningRateScheduler` reads a variable in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

METHODS = [{"method": "sgd"}, plans.bilevel(4, 2)]


@pytest.mark.parametrize("method", METHODS)
def test_run_reports_what_it_did(method):
    settings = plans.noisy(
        **method, num_train=160, batch_size=32, epochs=3, every=2, decay=0.9
    )
    metrics = training.run(settings)
    # Shards with equal label counts leave a few more examples over.
    assert 12 <= metrics["steps"] <= 3 * 160 // 32
    assert metrics["curves"]["epoch"] == [2, 3]
    gap = metrics["train_given"] - metrics["test"]
    assert metrics["gap"] == pytest.approx(gap)
    assert 0 <= metrics["suspect_auroc"] <= 1
    bilevel = method["method"] == "bilevel"
    assert ("effective_shards" in metrics) == bilevel


def test_run_that_blows_up_is_told_apart():
    metrics = training.run(
        plans.noisy(num_train=160, epochs=2, learning_rate=1e3)
    )
    assert metrics["ran_away"]
    final = metrics["final_loss"]
    assert final is None or math.isfinite(final)


def test_held_out_accuracy_has_a_name_of_its_own():
    metrics = training.run(
        plans.noisy(num_train=160, batch_size=32, epochs=1, held_out=0.2)
    )
    assert "test" not in metrics
    assert {"held_out", "best_held_out"} <= set(metrics)


def test_rate_is_constant_and_then_falls_to_zero():
    settings = plans.selection(epochs=200, learning_rate=0.001)
    rates = [training.rate(settings, epoch) for epoch in (0, 80, 140, 199)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 1e-3 / 120])


def test_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="Unknown settings"):
        plans.noisy(rate=0.1)


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_networks_end_in_logits(name):
    network = networks.build(name, (32, 32, 3), 7)
    assert network.output_shape == (None, 7)
    assert network.layers[-1].activation.__name__ == "linear"


@pytest.mark.parametrize("method", METHODS)
def test_averaged_weights_are_what_is_evaluated(method):
    settings = plans.noisy(
        **method, num_train=640, batch_size=32, epochs=6, noise=0.0
    )
    plain = training.run(settings)
    # An average that hardly moves is that of the first step.
    still = training.run({**settings, "ema_momentum": 1 - 1e-6})
    assert plain["test"] > still["test"] + 0.2
    assert len(set(still["curves"]["test"])) <= 2 < len(plain["curves"]["test"])
