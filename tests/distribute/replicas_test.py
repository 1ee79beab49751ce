"""Several replicas of one process end where one device ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.distribute import runs

ONE = tf.distribute.get_strategy()


def regularized():
    return runs.network(kernel_regularizer=keras.regularizers.L2(0.01))


def normalized(synchronized):
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((runs.INPUTS,)),
            # BatchNorm takes the bias away: its gradient is rounding.
            keras.layers.Dense(7, use_bias=False),
            keras.layers.BatchNormalization(
                momentum=0.5, synchronized=synchronized
            ),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(runs.CLASSES),
        ]
    )


def fitted(strategy, weighting, batches, optimizer="sgd", **kwargs):
    """Returns a model after `fit`, its outcome, and all replicas' copies."""
    model = runs.compiled(strategy, weighting, optimizer, **kwargs)
    size = 480
    watch = [
        kb.callbacks.ExampleHistory(size),
        kb.callbacks.WeightHistory(),
    ]
    history = model.fit(batches, epochs=2, verbose=0, callbacks=watch).history
    more = {
        "given_probability": np.nan_to_num(watch[0].given_probability),
        "effective": np.sum(np.square(watch[1].weights), axis=1),
    }
    kept = [v for observer in watch for v in observer._variables.values()]
    variables = model.variables + model.optimizer.variables + kept
    copies = [runs.copies(variable) for variable in variables]
    return runs.outcome(model, history, **more), copies


def check_alike(run, replicas, tolerance=2e-5):
    """Compares `run(strategy)` on replicas with one device."""
    found, copies = run(runs.mirrored(replicas))
    reference, _ = run(ONE)
    different = runs.differences(found, reference)
    assert max(different.values()) < tolerance, different
    for of_variable in copies:
        assert len(of_variable) == replicas
        for copy in of_variable:
            np.testing.assert_array_equal(copy, of_variable[0])


SHARDS = [
    (1, "sgd", {}),
    (2, "adam", {}),
    (4, "sgd", {}),
    (2, "clipnorm", {"l1_normalize": False}),
    (2, "global_clipnorm", {"per_layer": True}),
    (2, "more", {}),
]


@pytest.mark.parametrize("replicas, optimizer, options", SHARDS)
def test_shards_on_replicas_equal_one_device(replicas, optimizer, options):
    # At least 20 steps in two epochs.
    data = runs.examples(120 * replicas)

    def run(strategy):
        return fitted(
            strategy,
            lambda: runs.deep_bilevel(strategy, replicas, **options),
            runs.super_batches(strategy, replicas, data),
            optimizer,
            make=regularized,
        )

    check_alike(run, replicas)


SOSELETO = {
    "soseleto": lambda: kb.weighting.Soseleto(240, alpha_lr=5.0),
    "weights_first": lambda: kb.weighting.Soseleto(
        240, alpha_lr=5.0, update_weights_first=True
    ),
    "learning_to_reweight": kb.weighting.LearningToReweight,
    "meta_weight_net": lambda: kb.weighting.MetaWeightNet(8),
}
EXAMPLES = [
    (1, "soseleto", "adam"),
    (2, "soseleto", "sgd"),
    (4, "soseleto", "adam"),
    (2, "weights_first", "global_clipnorm"),
    (2, "learning_to_reweight", "adam"),
    (2, "meta_weight_net", "sgd"),
]


@pytest.mark.parametrize("replicas, name, optimizer", EXAMPLES)
def test_examples_on_replicas_equal_one_device(replicas, name, optimizer):
    def run(strategy):
        return fitted(
            strategy,
            SOSELETO[name],
            runs.source_target(runs.examples()),
            optimizer,
            make=regularized,
        )

    check_alike(run, replicas)


def pair():
    """A target network and a source network of two outputs that share."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((runs.INPUTS,))
    shared = keras.layers.Dense(7, activation="tanh")(inputs)
    target = keras.layers.Dense(runs.CLASSES)(shared)
    heads = [keras.layers.Dense(4)(shared), keras.layers.Dense(2)(shared)]
    return keras.Model(inputs, target), keras.Model(inputs, heads)


def test_source_network_of_two_outputs_on_replicas_equals_one_device():
    x, y = runs.examples()
    source = (x, (x[:, :4], x[:, :2]))
    results = []
    for strategy in (runs.mirrored(2), ONE):
        with strategy.scope():
            target_net, source_net = pair()
            model = kb.BilevelModel(
                target_net,
                kb.weighting.Soseleto(240),
                source_model=source_net,
                source_loss=["mse", "mae"],
            )
            model.compile(
                keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
        batches = kb.data.source_target_batches(
            source, (x[:32], y[:32]), 16, 8, seed=0
        )
        history = model.fit(batches, verbose=0).history
        results.append(runs.outcome(model, history))
    different = runs.differences(*results)
    assert max(different.values()) < 2e-5, different


@pytest.mark.parametrize("weighting", [SOSELETO["soseleto"], None])
def test_batch_norm_on_replicas_equals_one_device(weighting):
    # Synchronized, replicas share the statistics of a batch of examples.
    # Those of a shard are of the shard's replica: synchronized they would be
    # of all replicas' shards of this number, which one device has not.
    synchronized = weighting is not None
    data = runs.examples()

    def run(strategy):
        shards = not synchronized
        model = runs.compiled(
            strategy,
            weighting or (lambda: runs.deep_bilevel(strategy, 2)),
            make=lambda: normalized(synchronized),
        )
        make = runs.super_batches if shards else _any_source_target
        model.fit(make(strategy, 2, data), verbose=0)
        variables = model.trainable_variables if shards else model.variables
        return {str(i): v.numpy() for i, v in enumerate(variables)}

    different = runs.differences(run(runs.mirrored(2)), run(ONE))
    assert max(different.values()) < 1e-4, different


def _any_source_target(strategy, replicas, data):
    return runs.source_target(data)


def test_synchronized_batch_norm_takes_many_shards():
    # A `tf.while_loop` cannot wait for other replicas.
    strategy = runs.mirrored(2)
    model = runs.compiled(
        strategy,
        lambda: kb.weighting.DeepBilevel(11),
        make=lambda: normalized(True),
    )
    x, y = runs.examples(264)
    model.fit(x, y, batch_size=44, verbose=0)
    for variable in model.variables:
        first, second = runs.copies(variable)
        np.testing.assert_array_equal(first, second)


def spoiled(replica, batch_size=24):
    """Returns arrays of one batch, with a NaN on one of two replicas."""
    x, y = runs.examples(batch_size)
    if replica is not None:
        x[replica * batch_size // 2 + batch_size // 2 - 1] = np.nan
    return x, y


@pytest.mark.parametrize("replica", [0, 1])
def test_bad_shard_of_one_replica_drops_alone(replica):
    x, y = spoiled(replica)
    results = []
    for strategy, order in ((runs.mirrored(2), None), (ONE, _validation_first)):
        model = runs.compiled(strategy, lambda: runs.deep_bilevel(strategy, 2))
        batch = (x, y) if order is None else tuple(map(order, (x, y)))
        dataset = tf.data.Dataset.from_tensors(batch).repeat(3)
        history = model.fit(dataset, verbose=0).history
        assert history["dropped_shards"] == [3]
        results.append(runs.outcome(model, history))
    different = runs.differences(*results)
    assert max(different.values()) < 2e-5, different


def _validation_first(array):
    parts = array.reshape(2, runs.SHARDS, runs.SHARD_SIZE, *array.shape[1:])
    parts = np.concatenate([parts[:, :1], parts[:, 1:]], axis=1)
    first, rest = parts[:, 0], parts[:, 1:]
    first = first.reshape(-1, *array.shape[1:])
    return np.concatenate([first, rest.reshape(-1, *array.shape[1:])])


@pytest.mark.parametrize("replica", [0, 1])
@pytest.mark.parametrize(
    "name", ["soseleto", "learning_to_reweight", "meta_weight_net"]
)
def test_bad_example_of_one_replica_drops_alone(replica, name):
    x, y = spoiled(replica)
    source = (x, y, np.arange(24))
    found = _steps_of_examples(
        name, source, runs.examples(8, seed=1), but="history_accuracy"
    )
    assert found["history_dropped_examples"] == [3]


@pytest.mark.parametrize("replica", [0, 1])
def test_bad_target_of_one_replica_stops_the_step_on_all(replica):
    source = (*runs.examples(24), np.arange(24))
    found = _steps_of_examples("soseleto", source, spoiled(replica, 8))
    assert found["history_dropped_examples"] == [72]
    fresh = runs.compiled(ONE, SOSELETO["soseleto"])
    for i, variable in enumerate(fresh.variables):
        name = f"{i}_{variable.name}"
        np.testing.assert_array_equal(found[name], variable.numpy())


def _steps_of_examples(name, source, target, but=None):
    """Returns the outcome of three steps, seen to be one device's.

    All but one metric: a bad example has a good one of its replica stand in
    for it, and that is not the same one on one device.
    """
    results = []
    for strategy in (runs.mirrored(2), ONE):
        model = runs.compiled(strategy, SOSELETO[name])
        dataset = tf.data.Dataset.from_tensors((source, target)).repeat(3)
        history = model.fit(dataset, verbose=0).history
        results.append(runs.outcome(model, history))
    different = runs.differences(*results)
    different.pop(but, None)
    assert max(different.values()) < 2e-5, different
    return results[0]


def half():
    keras.utils.set_random_seed(7)
    network = keras.Sequential(
        [
            keras.Input((runs.INPUTS,)),
            keras.layers.Dense(7, activation="tanh", dtype="mixed_float16"),
            keras.layers.Dense(runs.CLASSES, dtype="float32"),
        ]
    )
    network.dtype_policy = keras.DTypePolicy("mixed_float16")
    return network


@pytest.mark.parametrize("name", ["shards", "raw_shards", "soseleto"])
def test_infinity_on_any_replica_lowers_the_scale_and_moves_nothing(name):
    weightings = {
        "shards": lambda: kb.weighting.DeepBilevel(runs.SHARDS),
        # No normaliser carries the infinity to the other replica.
        "raw_shards": lambda: kb.weighting.DeepBilevel(
            runs.SHARDS, l1_normalize=False
        ),
        "soseleto": SOSELETO["soseleto"],
    }
    model = runs.compiled(runs.mirrored(2), weightings[name], make=half)
    scale = None
    for replica in (None, 0, 1):
        x, y = spoiled(replica)
        x = np.where(np.isnan(x), np.inf, x)
        batch = (x, y)
        if name == "soseleto":
            batch = ((x, y, np.arange(24)), runs.examples(8, seed=1))
        before = _all_copies(model)
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
        moved = not all(map(np.array_equal, before, _all_copies(model)))
        scales = runs.copies(model.optimizer.dynamic_scale)
        if replica is None:
            scale = scales[0]
            assert moved
        else:
            scale /= 2
            assert not moved
        assert scales == [scale, scale]


def _all_copies(model):
    optimizer = model.optimizer.inner_optimizer
    variables = model.variables + optimizer.variables
    return [copy for v in variables for copy in runs.copies(v)]


def test_gram_matrix_with_several_replicas_is_an_error():
    model = runs.compiled(
        runs.mirrored(2),
        lambda: kb.weighting.DeepBilevel(runs.SHARDS, solver="exact"),
    )
    with pytest.raises(ValueError, match="solver='diagonal'"):
        model.fit(*runs.examples(48), batch_size=24, verbose=0)


def test_wrong_batch_size_for_replicas_is_an_error():
    model = runs.compiled(
        runs.mirrored(2), lambda: kb.weighting.DeepBilevel(runs.SHARDS)
    )
    x, y = runs.examples(48)
    with pytest.raises(ValueError, match="num_replicas \\* num_shards = 6"):
        model.fit(x, y, batch_size=9, verbose=0)
    batches = tf.data.Dataset.from_tensors((x[:9], y[:9]))
    with pytest.raises(ValueError, match="num_replicas=2"):
        model.fit(batches, verbose=0)


@pytest.mark.parametrize(
    "options", [{"num_shards": 6}, {"validation_ratio": 0.5}]
)
def test_super_batches_of_another_layout_are_an_error(options):
    model = runs.compiled(runs.mirrored(2), lambda: kb.weighting.DeepBilevel(2))
    options = {"num_shards": 3, **options}
    batches = kb.data.stratified_batches(
        runs.examples(), shard_size=8, stratify_by=None, **options
    )
    with pytest.raises(ValueError, match="num_shards=2.*num_replicas=2"):
        model.fit(batches, verbose=0)


@pytest.mark.parametrize("sizes", [(15, 8), (16, 7)])
def test_wrong_source_or_target_size_for_replicas_is_an_error(sizes):
    model = runs.compiled(runs.mirrored(2), SOSELETO["soseleto"])
    x, y = runs.examples()
    batches = kb.data.source_target_batches((x, y), (x, y), *sizes)
    with pytest.raises(ValueError, match="_size.*multiple of the number of"):
        model.fit(batches, verbose=0)


def test_ragged_source_batches_with_replicas_are_an_error():
    model = runs.compiled(runs.mirrored(2), SOSELETO["soseleto"])
    batches = runs.source_target(runs.examples(), drop_remainder=False)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.fit(batches, verbose=0)


def test_strategy_that_does_not_train_in_step_is_an_error():
    strategy = tf.distribute.experimental.CentralStorageStrategy(
        ["CPU:0", "CPU:1"], parameter_device="CPU:0"
    )
    with strategy.scope():
        with pytest.raises(ValueError, match="MirroredStrategy.*Received"):
            kb.BilevelModel(runs.network(), kb.weighting.DeepBilevel())


def test_parameter_servers_are_an_error(monkeypatch):
    # One without a cluster.
    kind = tf.distribute.ParameterServerStrategy
    monkeypatch.setattr(
        kb.BilevelModel, "distribute_strategy", object.__new__(kind)
    )
    with pytest.raises(ValueError, match="Received: ParameterServerStrategy"):
        kb.BilevelModel(runs.network(), kb.weighting.DeepBilevel())
