"""Selection takes its share of the global batch, on any number of replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.distribute import compiled_test
from tests.distribute import runs

BATCH_SIZE = 24
RULES = {
    "SelfPaced": 1,
    "CoTeaching": 2,
    "CoTeachingPlus": 2,
    "ClassBalancedCoTeaching": 2,
    "Decoupling": 2,
}


def networks(count):
    keras.utils.set_random_seed(7)
    return [
        keras.Sequential(
            [
                keras.Input((runs.INPUTS,)),
                keras.layers.Dense(
                    7, activation="tanh", kernel_regularizer="l2"
                ),
                keras.layers.Dense(runs.CLASSES),
            ]
        )
        for _ in range(count)
    ]


def compiled(strategy, rule, optimizer="sgd", **options):
    with strategy.scope():
        model = kb.SelectionModel(
            networks(RULES[rule]),
            getattr(kb.selection, rule)(),
            kb.schedules.CoTeachingSchedule(0.4, t_k=1),
            **options,
        )
        model.compile(
            runs.OPTIMIZERS[optimizer](),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def run(strategy, rule, optimizer="sgd", **options):
    """Two epochs of ten steps."""
    model = compiled(strategy, rule, optimizer, **options)
    x, y = runs.examples()
    history = kb.callbacks.SelectionHistory(len(x))
    np.random.seed(0)
    fitted = model.fit(
        x, y, batch_size=BATCH_SIZE, epochs=2, verbose=0, callbacks=[history]
    )
    return runs.outcome(
        model,
        fitted.history,
        kept=history.kept,
        evaluated=model.evaluate(x, y, batch_size=BATCH_SIZE, verbose=0),
        predicted=model.predict(x, batch_size=BATCH_SIZE, verbose=0),
    )


@pytest.mark.parametrize(
    "rule, replicas, optimizer",
    [
        ("SelfPaced", 2, "sgd"),
        ("CoTeaching", 2, "global_clipnorm"),
        ("CoTeaching", 4, "adam"),
        ("CoTeachingPlus", 2, "sgd"),
        ("ClassBalancedCoTeaching", 2, "adam"),
        ("Decoupling", 2, "sgd"),
    ],
)
def test_replicas_equal_one_device(rule, replicas, optimizer):
    single = run(tf.distribute.get_strategy(), rule, optimizer)
    several = run(runs.mirrored(replicas), rule, optimizer)
    differences = runs.differences(several, single)
    assert max(differences.values()) < 1e-4, differences
    assert np.any(single["kept"] == 0)


def test_each_replica_may_keep_its_own_share():
    strategy = runs.mirrored(2)
    model = compiled(strategy, "SelfPaced", select_per_replica=True)
    model.epoch = 1
    x, y = runs.examples(16)
    history = kb.callbacks.SelectionHistory(16)
    batches = tf.data.Dataset.from_tensors(
        (x, y, np.ones(16, "float32"), np.arange(16))
    )
    model.fit(
        batches,
        initial_epoch=1,
        epochs=2,
        verbose=0,
        callbacks=[history],
    )
    halves = history.kept[0].reshape(2, 8).sum(1)
    np.testing.assert_array_equal(halves, [5, 5])  # ceil(0.6 * 8)


@pytest.mark.parametrize("replica", [0, 1])
def test_nan_on_one_replica_drops_that_example_alone(replica):
    x, y = runs.examples(16)
    x[8 * replica + 3, 1] = np.nan
    ones, ids = np.ones(16, "float32"), np.arange(16)
    results = []
    for strategy in (runs.mirrored(2), tf.distribute.get_strategy()):
        model = compiled(strategy, "CoTeaching")
        batches = tf.data.Dataset.from_tensors((x, y, ones, ids)).repeat(3)
        fitted = model.fit(batches, initial_epoch=1, epochs=2, verbose=0)
        assert fitted.history["dropped_examples"] == [3]
        # In its place metrics see a good example of the same replica.
        del fitted.history["accuracy"]
        results.append(runs.outcome(model, fitted.history))
    differences = runs.differences(*results)
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize("replica", [0, 1])
def test_infinity_on_any_replica_lowers_the_scale_and_moves_nothing(replica):
    def half():
        hidden = keras.layers.Dense(7, activation="relu", dtype="mixed_float16")
        logits = keras.layers.Dense(runs.CLASSES, dtype="float32")
        network = keras.Sequential(
            [keras.Input((runs.INPUTS,)), hidden, logits]
        )
        network.dtype_policy = keras.DTypePolicy("mixed_float16")
        return network

    with runs.mirrored(2).scope():
        model = kb.SelectionModel([half(), half()], kb.selection.CoTeaching())
        model.compile(
            "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
    x, y = runs.examples(16)
    model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0)
    scale = runs.copies(model.optimizer.dynamic_scale)[0]
    before = [v.numpy() for v in model.variables]
    x[8 * replica + 3] = np.inf
    model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0)
    assert runs.copies(model.optimizer.dynamic_scale) == [scale / 2] * 2
    for variable, value in zip(model.variables, before):
        for copy in runs.copies(variable):
            np.testing.assert_array_equal(copy, value)


def test_batch_size_that_replicas_do_not_divide_is_an_error():
    model = compiled(runs.mirrored(2), "CoTeaching")
    x, y = runs.examples(30)
    with pytest.raises(ValueError, match="multiple of the number of replicas"):
        model.fit(x, y, batch_size=15, verbose=0)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_graph_of_the_step_is_fit_for_a_tpu(rule):
    model = compiled(tf.distribute.get_strategy(), rule)
    x, y = runs.examples()
    watch = [
        kb.callbacks.ExampleHistory(len(x)),
        kb.callbacks.SelectionHistory(len(x)),
    ]
    dataset = kb.data.shuffled_batches((x, y), BATCH_SIZE, seed=0)
    model.fit(dataset.take(1), verbose=0, callbacks=watch)
    step = tf.function(model.train_step)
    graph = step.get_concrete_function(dataset.element_spec).graph
    found, seen = compiled_test.unfit(graph)
    assert not found
    assert {"MatMul", "ResourceScatterUpdate"} <= seen


def roots(x):
    """Has a finite value everywhere, and no finite gradient at 0."""
    return keras.ops.sqrt(keras.ops.abs(x))


@pytest.mark.parametrize("replica", [0, 1])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("per_replica", [False, True])
def test_a_gradient_that_is_not_finite_on_one_replica(
    replica, scaled, per_replica
):
    x, y = runs.examples(16)
    x[8 * replica + 3] = 0
    batches = tf.data.Dataset.from_tensors(
        (x, y, np.ones(16, "float32"), np.arange(16))
    )
    for strategy in (runs.mirrored(2), tf.distribute.get_strategy()):
        keras.utils.set_random_seed(7)
        with strategy.scope():
            network = keras.Sequential(
                [
                    keras.Input((runs.INPUTS,)),
                    keras.layers.Dense(7, activation=roots),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dense(runs.CLASSES),
                ]
            )
            model = kb.SelectionModel(
                [network],
                kb.selection.SelfPaced(),
                select_per_replica=per_replica,
            )
            optimizer = keras.optimizers.SGD(0.1)
            if scaled:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            model.compile(
                optimizer, keras.losses.SparseCategoricalCrossentropy(True)
            )
        before = [v.numpy() for v in network.variables]
        history = kb.callbacks.SelectionHistory(16)
        logs = model.fit(batches, verbose=0, callbacks=[history]).history
        for a, v in zip(before, network.variables, strict=True):
            np.testing.assert_array_equal(a, v.numpy())
        assert logs["dropped_examples"] == [16]
        assert logs["kept"] == [0.0]
        assert np.isnan(logs["loss"][0])
        with pytest.raises(ValueError, match="one that has seen none"):
            history.example_scores


REFUSED = [
    (1, {"gradient_accumulation_steps": 2}, {}),
    (2, {"gradient_accumulation_steps": 2}, {}),
    (1, {"use_ema": True, "ema_overwrite_frequency": 2}, {}),
    (2, {"use_ema": True, "ema_overwrite_frequency": 2}, {}),
    (2, {}, {"steps_per_execution": 2}),
]


@pytest.mark.parametrize("replicas, options, compiling", REFUSED)
def test_options_that_keras_cannot_replicate_are_refused(
    replicas, options, compiling
):
    x, y = runs.examples(48)
    name = [*options, *compiling][-1]
    with runs.mirrored(replicas).scope():
        model = kb.SelectionModel(networks(1), kb.selection.SelfPaced())
        model.compile(
            keras.optimizers.SGD(0.1, **options),
            keras.losses.SparseCategoricalCrossentropy(True),
            **compiling,
        )
    with pytest.raises(ValueError, match=f"Expected .*{name}"):
        model.fit(x, y, batch_size=24, verbose=0)
