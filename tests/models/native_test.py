"""BilevelModel behaves as the Keras model that it wraps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(7, activation="tanh")
        self.out = layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def functional():
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(7)(inputs)))


def unbuilt():
    return keras.Sequential([layers.Dense(7), layers.Dense(3)])


def nested():
    return keras.Sequential([keras.Input((5,)), functional(), layers.ReLU()])


NETWORKS = [functional, tanh_network, Subclassed, unbuilt, nested]


@pytest.mark.parametrize("network", NETWORKS)
def test_fits_evaluates_predicts_and_saves(network, tmp_path):
    x, y = batch_of(64)
    model = compiled(network(), optimizer="adam", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert {"loss", "accuracy", "effective_shards"} <= set(history.history)
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        predicted, model.model.predict(x, verbose=0), rtol=1e-6
    )
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, kb.BilevelModel)
    assert loaded.weighting.get_config() == model.weighting.get_config()
    np.testing.assert_allclose(loaded.predict(x, verbose=0), predicted)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_allclose(a.numpy(), b.numpy())
    loaded.fit(x, y, batch_size=16, verbose=0)


def test_inner_weights_are_shared_and_save_alone(tmp_path):
    model = compiled(tanh_network())
    assert model.weights[0] is model.model.weights[0]
    x, y = batch_of(16)
    model.train_on_batch(x, y)
    model.model.save_weights(tmp_path / "inner.weights.h5")
    fresh = tanh_network()
    fresh.load_weights(tmp_path / "inner.weights.h5")
    np.testing.assert_allclose(fresh.predict(x), model.predict(x))


def test_weights_load_into_a_model_built_from_its_config(tmp_path):
    # The sequence of KerasTuner's `get_best_models`.
    model = compiled(Subclassed())
    model.build((None, 5))
    model.save_weights(tmp_path / "m.weights.h5")
    config = model.get_build_config()
    fresh = compiled(Subclassed())
    fresh.build_from_config(config)
    fresh.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(values(model.weights), values(fresh.weights)):
        np.testing.assert_array_equal(a, b)


def test_clone_model_has_weights_of_its_own():
    model = compiled(tanh_network(), kb.weighting.DeepBilevel(8, mu=0.5))
    clone = keras.models.clone_model(model)
    assert clone.weighting.get_config() == model.weighting.get_config()
    assert clone.weights[0] is not model.weights[0]


def test_export_serves_the_inner_network(tmp_path):
    model = compiled(tanh_network())
    x, _ = batch_of(4)
    model.export(str(tmp_path), verbose=False)
    served = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        served.serve(x), model.predict(x), rtol=1e-5, atol=1e-6
    )


def test_summary_is_the_inner_network_s(capsys):
    lines = []
    compiled(tanh_network()).summary(
        print_fn=lambda text, **_: lines.append(text)
    )
    assert "dense" in "".join(lines)


def two_outputs():
    a, b = keras.Input((5,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([a, b])
    return keras.Model(
        {"a": a, "b": b},
        {
            "kind": layers.Dense(3, name="kind")(joined),
            "size": layers.Dense(1, name="size")(joined),
        },
    )


def two_output_data(n=32):
    x, y = batch_of(n)
    inputs = {"a": x, "b": x[:, :2]}
    return inputs, {"kind": y, "size": x[:, :1]}


def compile_two_outputs(model):
    model.compile(
        keras.optimizers.SGD(0.05),
        loss={
            "kind": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
            "size": "mse",
        },
        loss_weights={"kind": 1.0, "size": 0.3},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )


def test_dict_inputs_outputs_losses_and_metrics():
    x, y = two_output_data()
    network = two_outputs()
    model = kb.BilevelModel(
        network,
        kb.weighting.DeepBilevel(4),
        stratify_by=lambda x, y: y["kind"],
    )
    compile_two_outputs(model)
    stock = two_outputs()
    compile_two_outputs(stock)
    own = model.fit(x, y, batch_size=16, verbose=0).history
    reference = stock.fit(x, y, batch_size=16, verbose=0).history
    extra = {"effective_shards", "negative_weights", "dropped_shards"}
    assert set(own) - extra == set(reference)
    names = {"loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae"}
    assert names == set(model.evaluate(x, y, verbose=0, return_dict=True))
    np.testing.assert_allclose(
        own["loss"][0],
        own["kind_loss"][0] + 0.3 * own["size_loss"][0],
        rtol=1e-4,
    )


@pytest.mark.parametrize("stratify_by", [np.zeros(8, int), "lable", 3])
def test_unknown_stratify_by_is_an_error_at_once(stratify_by):
    with pytest.raises(ValueError, match="`stratify_by`. Expected 'label'"):
        kb.BilevelModel(
            two_outputs(),
            kb.weighting.DeepBilevel(4),
            stratify_by=stratify_by,
        )


def test_dict_labels_without_stratify_by_are_an_error():
    x, y = two_output_data()
    model = kb.BilevelModel(two_outputs(), kb.weighting.DeepBilevel(4))
    compile_two_outputs(model)
    with pytest.raises(ValueError, match="stratify_by"):
        model.fit(x, y, batch_size=16, verbose=0)


def test_tuple_inputs_and_outputs():
    a, b = keras.Input((5,)), keras.Input((5,))
    network = keras.Model([a, b], [layers.Dense(3)(a), layers.Dense(1)(b)])
    x, y = batch_of(16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(network, loss=[loss, "mse"])
    logits, sizes = network.predict((x, x), verbose=0)
    log = model.fit(batched((x, x), (y, x[:, :1])), verbose=0).history
    chosen = logits[np.arange(16), y]
    kind = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
    size = np.mean((sizes - x[:, :1]) ** 2)
    np.testing.assert_allclose(log["loss"][0], kind + size, rtol=1e-5)
    after = network.predict((x, x), verbose=0)
    assert np.abs(after[0] - logits).min() > 0
    assert np.abs(after[1] - sizes).min() > 0


def test_one_hot_labels_equal_integer_labels():
    x, y = batch_of(64)
    results = []
    for labels, loss in (
        (y, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        (
            keras.utils.to_categorical(y, 3),
            keras.losses.CategoricalCrossentropy(from_logits=True),
        ),
    ):
        keras.utils.set_random_seed(3)
        model = compiled(tanh_network(), loss=loss)
        model.fit(x, labels, batch_size=16, verbose=0)
        results.append(values(model.weights))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_sample_weight_scales_the_examples_gradients():
    x, y = batch_of(16)
    weight = np.ones(16, "float32")
    weight[5] = 0.0
    changed = y.copy()
    changed[5] = (y[5] + 1) % 3  # Does not matter at weight 0.
    steps = []
    for labels in (y, changed):
        keras.utils.set_random_seed(1)
        model = compiled(tanh_network())
        steps.append(train_step(model, x, labels, weight))
    for a, b in zip(steps[0].gradients, steps[1].gradients):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_class_weight_equals_sample_weight():
    x, y = batch_of(64)
    weights = {0: 1.0, 1: 2.0, 2: 0.5}
    per_example = np.array([weights[label] for label in y], "float32")
    results = []
    for options in (
        {"class_weight": weights},
        {"sample_weight": per_example},
    ):
        keras.utils.set_random_seed(1)
        model = compiled(tanh_network())
        model.fit(x, y, batch_size=16, verbose=0, **options)
        results.append(values(model.weights))
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_regulariser_is_added_once_after_weighting():
    x, y = batch_of(16)
    steps, moves = [], []
    for factor in (0.0, 0.3):
        keras.utils.set_random_seed(1)
        regularizer = keras.regularizers.L2(factor) if factor else None
        network = tanh_network(kernel_regularizer=regularizer)
        model = compiled(network, optimizer=keras.optimizers.SGD(1.0))
        before = values(network.weights)
        steps.append(train_step(model, x, y))
        moves.append([b - a for a, b in zip(before, values(network.weights))])
    np.testing.assert_allclose(steps[0].weights, steps[1].weights, rtol=1e-5)
    np.testing.assert_allclose(
        moves[1][0], moves[0][0] - 2 * 0.3 * before[0], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(moves[1][2], moves[0][2], rtol=1e-5, atol=1e-6)


def test_reported_loss_counts_the_regulariser_as_keras_does():
    x, y = batch_of(16)
    regularizer = keras.regularizers.L2(0.3)
    model = compiled(
        tanh_network(kernel_regularizer=regularizer),
        optimizer=keras.optimizers.SGD(0.0),
    )
    trained = model.train_on_batch(x, y, return_dict=True)["loss"]
    tested = model.test_on_batch(x, y, return_dict=True)["loss"]
    np.testing.assert_allclose(trained, tested, rtol=1e-5)


def test_activity_regulariser_is_part_of_each_shard_s_loss():
    x, y = batch_of(16)
    steps = []
    for factor in (0.0, 5.0):
        keras.utils.set_random_seed(1)
        network = tanh_network(
            activity_regularizer=keras.regularizers.L2(factor)
        )
        steps.append(train_step(compiled(network), x, y))
    assert not np.allclose(steps[0].weights, steps[1].weights, atol=1e-3)


def test_user_s_compute_loss_is_used():
    class Doubled(kb.BilevelModel):
        def compute_loss(self, *args, **kwargs):
            return 2.0 * super().compute_loss(*args, **kwargs)

    x, y = batch_of(16)
    keras.utils.set_random_seed(1)
    single = train_step(compiled(tanh_network()), x, y)
    keras.utils.set_random_seed(1)
    model = Doubled(tanh_network(), kb.weighting.DeepBilevel(4))
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    double = train_step(model, x, y)
    np.testing.assert_allclose(double.losses, 2 * single.losses, rtol=1e-5)


def test_frozen_layers_neither_move_nor_count():
    x, y = batch_of(16)
    network = tanh_network()
    network.layers[0].trainable = False
    model = compiled(network)
    before = values(network.weights)
    step = train_step(model, x, y)
    assert len(step.gradients) == 2
    after = values(network.weights)
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.allclose(after[2], before[2])


def test_variable_that_the_loss_does_not_reach_stays():
    inputs = keras.Input((5,))
    used, unused = layers.Dense(3)(inputs), layers.Dense(2)(inputs)
    network = keras.Model(inputs, [used, unused])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(network, loss=[loss, None])
    x, y = batch_of(16)
    before = values(network.weights)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(batched(x, (y, y)), verbose=0)
    np.testing.assert_array_equal(before[2], network.weights[2].numpy())


def masked_network():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True),
            layers.LSTM(5, return_sequences=True),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_masks_survive_in_loss_and_metrics(jit_compile):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 11, (16, 6))
    x[:, 4:] = 0  # Padding.
    y = rng.integers(0, 3, (16, 6))
    logs = []
    for padding in (0, 1):
        keras.utils.set_random_seed(1)
        labels = y.copy()
        labels[:, 4:] = padding
        model = compiled(
            masked_network(),
            kb.weighting.DeepBilevel(num_shards=2),
            metrics=["accuracy"],
            jit_compile=jit_compile,
        )
        logs.append(model.train_on_batch(x, labels, return_dict=True))
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-6)


def test_batch_statistics_are_per_shard_and_updated_by_every_shard():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(momentum=0.5, epsilon=0.0),
            layers.Dense(3),
        ]
    )
    x, y = batch_of(16)
    train_step(compiled(network), x, y)
    mean = np.zeros(5)
    for shard in np.split(x.astype("float64"), 4):
        mean = 0.5 * mean + 0.5 * shard.mean(0)
    moving = network.layers[0].moving_mean.numpy()
    np.testing.assert_allclose(moving, mean, rtol=1e-4, atol=1e-6)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.01),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.01),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True),
    "decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "accumulation": lambda: keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=2
    ),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    ),
    "loss_scale": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_gets_the_weighted_gradient_once(name):
    x, y = batch_of(16)
    network = tanh_network()
    twin = keras.models.clone_model(network)
    twin.set_weights(network.get_weights())
    model = compiled(network, optimizer=OPTIMIZERS[name]())
    optimizer = OPTIMIZERS[name]()
    optimizer.build(twin.trainable_variables)
    for _ in range(3):
        step = train_step(model, x, y)
        scale = optimizer.loss_scale_factor or 1.0
        optimizer.apply([g * scale for g in step.gradients])
    assert int(model.optimizer.iterations) == int(optimizer.iterations)
    for a, b in zip(values(network.weights), values(twin.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_compares_in_float32(policy):
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(16, activation="relu", dtype=policy),
            layers.Dense(3, dtype="float32"),
        ]
    )
    network.dtype_policy = keras.DTypePolicy(policy)
    model = compiled(network)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    x, y = batch_of(64)
    step = train_step(model, x, y)
    assert step.weights.dtype == "float32"
    losses = model.fit(x, y, batch_size=16, epochs=8, verbose=0)
    assert losses.history["loss"][-1] < losses.history["loss"][0]


def test_mixed_float16_equals_float32_nearly():
    x, y = batch_of(64)
    weights = []
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy(policy)
        try:
            network = tanh_network()
            model = compiled(network)
        finally:
            keras.config.set_dtype_policy("float32")
        weights.append(train_step(model, x, y).weights)
    np.testing.assert_allclose(*weights, atol=0.02)


def test_steps_per_execution_and_eager_give_the_same_weights():
    x, y = batch_of(96)
    results = []
    for options in ({}, {"steps_per_execution": 3}, {"run_eagerly": True}):
        keras.utils.set_random_seed(1)
        model = compiled(tanh_network(), **options)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        results.append(values(model.weights))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_train_on_batch_takes_a_super_batch():
    x, y = batch_of(16)
    model = compiled(tanh_network(), metrics=["accuracy"])
    logs = model.train_on_batch(x, y, return_dict=True)
    assert {"loss", "accuracy", "effective_shards"} <= set(logs)


def test_model_is_built_before_fit_where_its_network_is():
    assert compiled(tanh_network()).built  # BackupAndRestore asks.
    assert not compiled(unbuilt()).built


def test_loss_weights_of_lists_get_keras_names():
    a = keras.Input((5,))
    network = keras.Model(
        a, [layers.Dense(3, name="p")(a), layers.Dense(1, name="q")(a)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(network, loss=[loss, "mse"])
    x, y = batch_of(16)
    logs = model.fit(batched(x, (y, x[:, :1])), verbose=0).history
    assert {"p_loss", "q_loss"} <= set(logs)


@pytest.mark.parametrize("size", [15, 18])
def test_batch_not_divisible_is_an_error_before_the_first_step(size):
    x, y = batch_of(size)
    model = compiled(tanh_network())
    before = values(model.weights)
    with pytest.raises(ValueError, match="multiple of.*Received"):
        model.fit(batched(x, y), verbose=0)
    with pytest.raises(ValueError, match="batch_size.*multiple"):
        model.fit(x, y, batch_size=size, verbose=0)
    for a, b in zip(before, values(model.weights)):
        np.testing.assert_array_equal(a, b)


def test_ragged_last_batch_is_an_error_before_the_first_step():
    dataset = tf.data.Dataset.from_tensor_slices(batch_of(40)).batch(16)
    with pytest.raises(ValueError, match="drop_remainder"):
        compiled(tanh_network()).fit(dataset, verbose=0)


def test_wrong_model_and_weighting_are_errors():
    with pytest.raises(ValueError, match="`model`.*Received"):
        kb.BilevelModel(layers.Dense(2), kb.weighting.DeepBilevel())
    with pytest.raises(ValueError, match="`weighting`.*Received"):
        kb.BilevelModel(tanh_network(), "deep_monolevel")


def test_generator_with_a_wrong_batch_is_an_error():
    def generator():
        for size in (15, 15):
            yield batch_of(size)

    with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of"):
        compiled(tanh_network()).fit(generator(), steps_per_epoch=2, verbose=0)


def test_soft_labels_are_an_error_that_names_stratify_by():
    x, _ = batch_of(32)
    soft = np.full((32, 3), 1 / 3, "float32")
    with pytest.raises(ValueError, match="stratify_by"):
        compiled(tanh_network()).fit(x, soft, batch_size=16, verbose=0)


@pytest.mark.parametrize("make", [None, kb.weighting.Soseleto])
def test_weights_of_none_in_a_dataset_are_no_weights(make):
    x, y = batch_of(32)
    ids = np.arange(32)
    models = []
    for without in [(), (None,)]:
        keras.utils.set_random_seed(0)
        model = compiled(tanh_network(), make and make(32))
        batch = (x, y, *without)
        if make:
            batch = ((x, y, *without, ids), (x, y, *without))
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
        models.append(model)
    for a, b in zip(*(values(m.trainable_variables) for m in models)):
        np.testing.assert_array_equal(a, b)
