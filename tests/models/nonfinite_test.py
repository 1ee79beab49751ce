"""What is not finite never reaches a variable."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import train_step
from tests.models.tools import values


def network(dtype=None):
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.ReLU(dtype=dtype),
            layers.Dense(3, dtype="float32"),
        ]
    )


def with_bad(shard, bad=np.nan, shard_size=4):
    x, y = batch_of(32)
    x[shard * shard_size + 1, 2] = bad
    return x, y


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize(
    "options", [{}, {"per_layer": True}, {"solver": "exact"}]
)
def test_bad_shard_leaves_the_step_of_the_other_shards(options, bad):
    x, y = with_bad(5, bad)
    models = [
        compiled(network(), kb.weighting.DeepBilevel(k, **options))
        for k in (8, 7)
    ]
    models[1].set_weights(models[0].get_weights())
    step = train_step(models[0], x, y)
    rest = np.r_[0:20, 24:32]
    train_step(models[1], x[rest], y[rest])
    np.testing.assert_array_equal(step.weights[:, 4], 0.0)
    np.testing.assert_array_equal(np.flatnonzero(step.dropped), [5])
    for a, b in zip(values(models[0].variables), values(models[1].variables)):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bad_validation_shard_gives_a_zero_gradient_and_is_counted():
    x, y = with_bad(0)
    model = compiled(network(), kb.weighting.DeepBilevel(8))
    before = values(model.trainable_variables)
    logs = model.fit(batched(x, y), verbose=0).history
    assert logs["dropped_shards"] == [1.0]
    assert np.isfinite(logs["loss"]).all()
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))


def test_bad_one_of_several_validation_shards_is_left_out():
    x, y = with_bad(0)
    model = compiled(network(), kb.weighting.DeepBilevel(8, 2))
    before = values(model.trainable_variables)
    train_step(model, x, y)
    after = values(model.trainable_variables)
    assert all(np.all(np.isfinite(v)) for v in after)
    assert not np.allclose(before[0], after[0])


@pytest.mark.parametrize("num_shards", [8, 16])  # Unrolled and looped.
def test_dropped_shards_are_counted_over_the_epoch(num_shards):
    x, y = with_bad(5, shard_size=32 // num_shards)
    model = compiled(network(), kb.weighting.DeepBilevel(num_shards))
    logs = model.fit(batched(x, y, repeat=3), verbose=0).history
    assert logs["dropped_shards"] == [3.0]
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))


def test_all_shards_bad_leave_everything_finite():
    x, y = batch_of(32)
    model = compiled(network(), kb.weighting.DeepBilevel(8))
    model.train_on_batch(x * np.nan, y)
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))


def wide(dtype=None):
    """A network of which no gradient is taken shard by shard."""
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(40, dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dense(12, dtype="float32"),
        ]
    )


@pytest.mark.parametrize("make", [network, wide])
@pytest.mark.parametrize("shard", [0, 5])
@pytest.mark.parametrize(
    "options", [{}, {"same_dropout": True}, {"per_layer": True}], ids=str
)
def test_float16_overflow_lowers_the_scale_and_skips_the_step(
    shard, options, make
):
    inner = make("mixed_float16")
    inner.dtype_policy = keras.DTypePolicy("mixed_float16")
    model = compiled(inner, kb.weighting.DeepBilevel(8, **options))
    x, y = batch_of(32)
    model.train_on_batch(x, y)
    scale = float(model.optimizer.dynamic_scale)
    before = values(model.trainable_variables)
    x, y = with_bad(shard, 1e30)
    history = kb.callbacks.WeightHistory()
    logs = model.fit(batched(x, y), verbose=0, callbacks=[history]).history
    assert np.all(np.isfinite(history.weights))
    assert all(np.all(np.isfinite(log)) for log in logs.values())
    assert float(model.optimizer.dynamic_scale) == scale / 2
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))


def test_static_loss_scale_still_drops_the_shard():
    x, y = with_bad(5)
    optimizer = keras.optimizers.SGD(0.1, loss_scale_factor=64.0)
    model = compiled(network(), kb.weighting.DeepBilevel(8), optimizer)
    before = values(model.trainable_variables)
    model.train_on_batch(x, y)
    after = values(model.trainable_variables)
    assert all(np.all(np.isfinite(v)) for v in after)
    assert not np.allclose(before[0], after[0])


class Masked(layers.Layer):
    """Has state that is not finite, and is meant to be."""

    def build(self, input_shape):
        self.mask = self.add_weight(
            shape=(2,),
            initializer=keras.initializers.Constant(-np.inf),
            trainable=False,
        )

    def call(self, x):
        return x + keras.ops.sum(keras.ops.exp(self.mask))


def test_state_that_never_was_finite_drops_no_shard():
    inner = keras.Sequential([keras.Input((5,)), Masked(), layers.Dense(3)])
    x, y = with_bad(5)
    step = train_step(compiled(inner, kb.weighting.DeepBilevel(8)), x, y)
    np.testing.assert_array_equal(np.flatnonzero(step.dropped), [5])
    assert np.any(step.gradients[0])
