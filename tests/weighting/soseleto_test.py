"""Algorithm 1 in float64 NumPy, and what a memory of weights has to keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from tests.models import reference
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values

RATE = 0.1


def data(size=12, ids=None):
    ids = np.arange(size)[::-1].copy() if ids is None else np.array(ids)
    return ((*batch_of(size), ids), batch_of(6, seed=1))


def as_dataset(batch, repeat=1):
    return tf.data.Dataset.from_tensors(batch).repeat(repeat)


def loss_of(name="cross-entropy"):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def inner(a, b):
    return sum(np.sum(x * y) for x, y in zip(a, b))


def algorithm_1(weights, batch, alpha, steps, alpha_lr, clip, first):
    """Algorithm 1 for one network; returns weights, alpha and its changes."""
    (x, y, ids), target = batch
    weights = [w.astype("float64") for w in weights]
    alpha, sums = alpha.astype("float64"), np.zeros(len(alpha))
    for _ in range(steps):
        pairs = zip(x[:, None], y[:, None])
        each = [reference.loss_and_gradient(weights, *p)[1] for p in pairs]
        _, judge = reference.loss_and_gradient(weights, *target)
        move = alpha_lr * RATE * np.array([inner(g, judge) for g in each])
        moved = alpha.copy()
        moved[ids] = np.clip(alpha[ids] + move, *clip)
        sums[ids] += move
        used = (moved if first else alpha)[ids]
        weights = [
            w - RATE * sum(a * g[i] for a, g in zip(used, each)) / len(ids)
            for i, w in enumerate(weights)
        ]
        alpha = moved
    return weights, alpha, sums


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}])
def test_steps_equal_algorithm_1(first, options):
    network = tanh_network()
    batch = data()
    expected = algorithm_1(
        values(network.weights),
        batch,
        np.full(12, 0.8),
        steps=3,
        alpha_lr=20.0,
        clip=(0.0, 1.1),
        first=first,
    )
    weighting = kb.weighting.Soseleto(
        12, alpha_lr=20.0, initial=0.8, update_weights_first=first
    )
    model = compiled(network, weighting, **options)
    model.fit(as_dataset(batch, 3), verbose=0)
    for variable, value in zip(network.weights, expected[0]):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        weighting.example_weights, expected[1], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        weighting.example_scores, expected[2], rtol=1e-5, atol=1e-5
    )
    # The test would say nothing if no weight had moved to a bound.
    assert len(np.unique(expected[1])) > 3 and expected[1].max() == 1.1
    assert int(model.optimizer.iterations) == 3


def two_networks(classes=4):
    """A target and a source network with one hidden layer in common."""
    hidden = layers.Dense(7, activation="tanh")
    x_t, x_s = keras.Input((5,)), keras.Input((5,))
    target = keras.Model(x_t, layers.Dense(3)(hidden(x_t)), name="target")
    source = keras.Model(x_s, layers.Dense(classes)(hidden(x_s)), name="source")
    return target, source


def transfer_batch():
    return (
        (*batch_of(12, classes=4), np.arange(12)),
        batch_of(6, classes=3, seed=1),
    )


def transfer_model(alpha_lr=5.0, **kwargs):
    target, source = two_networks()
    model = kb.BilevelModel(
        target,
        weighting=kb.weighting.Soseleto(12, alpha_lr=alpha_lr),
        source_model=source,
        **kwargs,
    )
    model.compile(keras.optimizers.SGD(RATE), loss_of(), metrics=["accuracy"])
    return model


def test_transfer_equals_algorithm_1():
    model = transfer_model()
    batch = transfer_batch()
    (x, y, ids), (x_t, y_t) = batch
    target = [w.astype("float64") for w in model.model.get_weights()]
    source = [w.astype("float64") for w in model.source_model.get_weights()]
    alpha = np.ones(12)
    for _ in range(3):
        pairs = zip(x[:, None], y[:, None])
        each = [reference.loss_and_gradient(source, *p)[1] for p in pairs]
        _, own = reference.loss_and_gradient(target, x_t, y_t)
        # Theta is the hidden layer alone.
        move = 5.0 * RATE * np.array([inner(g[:2], own[:2]) for g in each])
        total = [
            sum(a * g[i] for a, g in zip(alpha, each)) / 12 for i in range(4)
        ]
        source = [w - RATE * g for w, g in zip(source, total)]
        head = [w - RATE * g for w, g in zip(target[2:], own[2:])]
        target = [*source[:2], *head]
        alpha = np.clip(alpha + move, 0.0, 1.1)
    model.fit(as_dataset(batch, 3), verbose=0)
    for network, expected in (
        (model.model, target),
        (model.source_model, source),
    ):
        for variable, value in zip(network.weights, expected):
            np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.weighting.example_weights, alpha, rtol=1e-5, atol=1e-6
    )


def test_transfer_metrics_are_the_target_networks():
    model = transfer_model()
    batch = transfer_batch()
    y_pred = model.predict(batch[1][0], verbose=0)
    log = model.fit(as_dataset(batch), verbose=0).history
    accuracy = np.mean(y_pred.argmax(1) == batch[1][1])
    assert log["accuracy"][0] == pytest.approx(accuracy)
    expected = float(loss_of()(batch[1][1], y_pred))
    assert log["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert log["source_loss"][0] > 0


def test_a_pair_is_saved_as_one_network(tmp_path):
    model = transfer_model()
    dataset = as_dataset(transfer_batch())
    model.fit(dataset, epochs=2, verbose=0)
    model.save(tmp_path / "pair.keras")
    loaded = keras.saving.load_model(tmp_path / "pair.keras")
    assert len(loaded.trainable_variables) == 6
    for a, b in zip(values(model.variables), values(loaded.variables)):
        np.testing.assert_array_equal(a, b)
    for one in (model, loaded):
        one.fit(dataset, epochs=2, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables)):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("is_built", [False, True])
def test_a_pair_of_sequential_models_is_saved(tmp_path, is_built):
    hidden = layers.Dense(7, activation="tanh")
    head = [keras.Input((5,))] if is_built else []
    target, source = (
        keras.Sequential([*head, hidden, layers.Dense(size)]) for size in (3, 4)
    )
    model = kb.BilevelModel(
        target, kb.weighting.Soseleto(12), source_model=source
    )
    assert model.model is target and model.source_model is source
    model.compile("sgd", loss_of())
    model.fit(as_dataset(transfer_batch()), verbose=0)
    model.save(tmp_path / "pair.keras")
    loaded = keras.saving.load_model(tmp_path / "pair.keras")
    assert len(loaded.trainable_variables) == 6
    for a, b in zip(values(model.variables), values(loaded.variables)):
        np.testing.assert_array_equal(a, b)


def test_a_pair_of_which_one_is_in_the_other_is_not_saved(tmp_path):
    target = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    x = keras.Input((5,))
    source = keras.Model(x, layers.Dense(4)(target(x)))
    model = kb.BilevelModel(
        target, kb.weighting.Soseleto(12), source_model=source
    )
    model.compile("sgd", loss_of())
    model.fit(as_dataset(transfer_batch()), verbose=0)
    with pytest.raises(ValueError, match="side by side.*save_weights"):
        model.save(tmp_path / "pair.keras")


def test_a_pair_keeps_its_precision():
    """Also where the default is another one by then."""
    keras.config.set_dtype_policy("mixed_float16")
    target, source = two_networks()
    keras.config.set_dtype_policy("float32")
    model = kb.BilevelModel(
        target, kb.weighting.Soseleto(12), source_model=source
    )
    model.compile("sgd", loss_of())
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    copy = kb.BilevelModel.from_config(model.get_config())
    for network in (copy, copy.model, copy.source_model):
        assert network.dtype_policy.name == "mixed_float16"


def test_a_pair_keeps_dict_inputs_and_losses(tmp_path):
    hidden = layers.Dense(6, activation="tanh")
    x = {"a": keras.Input((5,), name="a")}
    target = keras.Model(
        x, {"kind": layers.Dense(3, name="kind")(hidden(x["a"]))}
    )
    x_s = keras.Input((5,))
    source = keras.Sequential([x_s, hidden, layers.Dense(1, name="size")])
    model = kb.BilevelModel(
        target,
        weighting=kb.weighting.Soseleto(12),
        source_model=source,
        source_loss="mse",
    )
    model.compile("adam", loss={"kind": loss_of()})
    x, y = batch_of(12)
    dataset = as_dataset(((x, x[:, 0], np.arange(12)), ({"a": x}, {"kind": y})))
    model.fit(dataset, verbose=0)
    model.save(tmp_path / "dict.keras")
    loaded = keras.saving.load_model(tmp_path / "dict.keras")
    np.testing.assert_allclose(
        model.predict({"a": x}, verbose=0)["kind"],
        loaded.predict({"a": x}, verbose=0)["kind"],
        rtol=1e-6,
    )
    loaded.fit(dataset, verbose=0)


class Net(keras.Model):
    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(self.hidden(x))


def test_subclassed_pair_trains_but_saves_weights_only(tmp_path):
    def make():
        hidden = layers.Dense(7, activation="tanh")
        model = kb.BilevelModel(
            Net(hidden),
            weighting=kb.weighting.Soseleto(12, alpha_lr=10.0),
            source_model=Net(hidden),
        )
        model.compile("sgd", loss_of())
        return model

    model, other = make(), make()
    for one in (model, other):
        one.fit(as_dataset(data()), verbose=0)
    model.fit(as_dataset(data()), epochs=2, verbose=0)
    model.save_weights(tmp_path / "pair.weights.h5")
    other.load_weights(tmp_path / "pair.weights.h5")
    for a, b in zip(values(model.variables), values(other.variables)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="save_weights"):
        model.save(tmp_path / "pair.keras")


class HalfLoss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 0.5 * super().compute_loss(*args, **kwargs)


def test_networks_of_a_pair_keep_their_own_methods(tmp_path):
    changes = []
    for kind in (keras.Model, HalfLoss):
        keras.utils.set_random_seed(0)
        x = keras.Input((5,))
        h = layers.Dense(7, activation="tanh")(x)
        target = kind(x, layers.Dense(3)(h))
        source = kind(x, layers.Dense(4)(h))
        head = target.layers[-1].kernel
        before = head.numpy()
        model = kb.BilevelModel(
            target, kb.weighting.Soseleto(12), source_model=source
        )
        model.compile("sgd", loss_of())
        model.fit(as_dataset(transfer_batch()), verbose=0)
        changes.append(head.numpy() - before)
    np.testing.assert_allclose(changes[0], 2 * changes[1], rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="save_weights"):
        model.save(tmp_path / "pair.keras")


class Own(keras.Model):
    def train_step(self, data):
        return {}


def test_a_train_step_in_a_pair_is_an_error():
    x = keras.Input((5,))
    h = layers.Dense(7)(x)
    with pytest.raises(ValueError, match="overrides `train_step`"):
        kb.BilevelModel(
            keras.Model(x, layers.Dense(3)(h)),
            kb.weighting.Soseleto(12),
            source_model=Own(x, layers.Dense(4)(h)),
        )


def test_two_layers_of_one_name_in_a_pair_are_an_error():
    x = keras.Input((5,))
    h = layers.Dense(7)(x)
    networks = [
        keras.Model(x, layers.Dense(size, name="head")(h)) for size in (3, 4)
    ]
    with pytest.raises(ValueError, match="two layers named 'head'"):
        kb.BilevelModel(
            networks[0], kb.weighting.Soseleto(12), source_model=networks[1]
        )


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_weight_of_0_has_an_alignment_in_float16(dtype):
    """Also without a loss scale, as where a layer alone has this type."""
    scores = []
    for alpha in (1.0, 0.0):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [keras.Input((5,)), layers.Dense(7, "tanh", dtype=dtype)]
        )
        network.add(layers.Dense(3))
        model = compiled(network, kb.weighting.Soseleto(12))
        model.weighting.alpha.assign(np.repeat([alpha, 1.0], 6))
        model.fit(as_dataset(data()), verbose=0)
        scores.append(model.weighting.example_scores)
    assert np.abs(scores[0]).min() > 0
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("how", ["keras", "weights"])
def test_memory_is_saved_and_restored(tmp_path, how):
    model = compiled(tanh_network(), kb.weighting.Soseleto(12, alpha_lr=20.0))
    model.fit(as_dataset(data(), 3), verbose=0)
    if how == "keras":
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
    else:
        model.save_weights(tmp_path / "m.weights.h5")
        loaded = compiled(tanh_network(), kb.weighting.Soseleto(12))
        loaded.load_weights(tmp_path / "m.weights.h5")
    for name in ("example_weights", "example_scores"):
        np.testing.assert_array_equal(
            getattr(model.weighting, name), getattr(loaded.weighting, name)
        )
    assert len(np.unique(model.weighting.example_weights)) > 2


class Stop(Exception):
    """What kills the run of a test."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_killed_run_resumes_to_the_same_result(tmp_path, optimizer):
    def run(killed_at=None, folder=None):
        keras.utils.set_random_seed(3)
        network = keras.Sequential(
            [
                keras.Input((5,)),
                layers.Dense(7, activation="tanh"),
                layers.Dropout(0.3),
                layers.Dense(3),
            ]
        )
        model = compiled(
            network,
            kb.weighting.Soseleto(40, alpha_lr=20.0),
            keras.optimizers.get(optimizer),
        )
        dataset = kb.data.source_target_batches(
            batch_of(40), batch_of(10, seed=1), 8, 4, seed=0
        )
        callbacks = []
        if folder:
            callbacks.append(keras.callbacks.BackupAndRestore(folder))

        def stop(epoch, logs):
            if epoch == killed_at:
                raise Stop

        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=stop))
        try:
            model.fit(dataset, epochs=4, verbose=0, callbacks=callbacks)
        except Stop:
            return None
        return values(model.variables)

    whole = run()
    assert run(killed_at=2, folder=tmp_path / "backup") is None
    for a, b in zip(whole, run(folder=tmp_path / "backup")):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "optimizer,options",
    [
        ("adam", {"jit_compile": True}),
        ("lion", {"steps_per_execution": 2}),
        ("adamw", {}),
    ],
)
def test_other_optimizers_and_compilations_agree_with_eager(optimizer, options):
    results = []
    for kwargs in (options, {"run_eagerly": True}):
        keras.utils.set_random_seed(0)
        model = compiled(
            tanh_network(),
            kb.weighting.Soseleto(12, alpha_lr=1000.0),
            keras.optimizers.get(
                {"class_name": optimizer, "config": {"learning_rate": 0.001}}
            ),
            **kwargs,
        )
        model.fit(as_dataset(data(), 4), verbose=0)
        results.append(values(model.trainable_variables))
        results[-1].append(model.weighting.example_weights)
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_finds_about_the_same_alignment(policy):
    scores = []
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        network = tanh_network(dtype=dtype)
        model = kb.BilevelModel(network, kb.weighting.Soseleto(12), dtype=dtype)
        model.compile(keras.optimizers.SGD(1.0), loss_of())
        model.fit(as_dataset(data()), verbose=0)
        scores.append(model.weighting.example_scores)
    assert np.corrcoef(scores)[0, 1] > 0.999


def test_float16_overflow_changes_nothing_but_the_scale():
    model = kb.BilevelModel(
        tanh_network(dtype="mixed_float16"),
        kb.weighting.Soseleto(12),
        dtype="mixed_float16",
    )
    model.compile("sgd", loss_of())
    model.fit(as_dataset(data()), verbose=0)
    scale = float(model.optimizer.dynamic_scale)
    before = values(model.trainable_variables), model.weighting.example_scores
    batch = data()
    batch[0][0][2] = 1e30
    log = model.fit(as_dataset(batch), verbose=0).history
    assert float(model.optimizer.dynamic_scale) == scale / 2
    for a, b in zip(before[0], values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(before[1], model.weighting.example_scores)
    assert all(np.all(np.isfinite(v)) for v in log.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: kb.weighting.Soseleto(12),
        lambda: kb.weighting.Soseleto(12, update_weights_first=True),
        kb.weighting.LearningToReweight,
    ],
)
def test_an_overflow_of_the_target_alone_lowers_the_scale(make):
    network = tanh_network(dtype="mixed_float16")
    model = kb.BilevelModel(network, make(), dtype="mixed_float16")
    model.compile("sgd", loss_of())
    model.fit(as_dataset(data()), verbose=0)
    scale = float(model.optimizer.dynamic_scale)
    before = values(network.trainable_variables)
    batch = data()
    batch[1][0][2] = 1e30
    model.fit(as_dataset(batch), verbose=0)
    assert float(model.optimizer.dynamic_scale) == scale / 2
    for a, b in zip(before, values(network.trainable_variables)):
        np.testing.assert_array_equal(a, b)


def with_batch_norm():
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("where", ["x", "sample_weight"])
@pytest.mark.parametrize("first", [False, True])
def test_bad_example_weighs_nothing_and_keeps_its_alpha(first, where):
    def run(spoil):
        keras.utils.set_random_seed(0)
        (x, y, ids), target = data()
        weight = np.ones(12, "float32")
        if spoil:
            {"x": x, "sample_weight": weight}[where][4] = np.nan
        else:
            weight[4] = 0.0
        model = compiled(
            tanh_network(),
            kb.weighting.Soseleto(
                12, alpha_lr=20.0, update_weights_first=first
            ),
        )
        target = (*target, np.ones(6, "float32"))
        batch = ((x, y, weight, ids), target)
        log = model.fit(as_dataset(batch, 2), verbose=0).history
        return model, log

    (model, log), (other, _) = run(True), run(False)
    for a, b in zip(values(model.variables), values(other.variables)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    bad_id = data()[0][2][4]
    assert model.weighting.example_weights[bad_id] == 1.0
    assert model.weighting.example_scores[bad_id] == 0.0
    assert log["dropped_examples"][0] == 2
    assert np.isfinite(log["loss"][0])


def test_bad_example_spoils_no_batch_statistics():
    (x, y, ids), target = data()
    x[4] = np.nan
    model = compiled(with_batch_norm(), kb.weighting.Soseleto(12))
    log = model.fit(as_dataset(((x, y, ids), target)), verbose=0).history
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))
    assert log["dropped_examples"][0] == 1
    assert np.count_nonzero(model.weighting.example_scores) == 11


def test_bad_target_changes_nothing():
    batch = data()
    batch[1][0][0] = np.nan
    model = compiled(with_batch_norm(), kb.weighting.Soseleto(12))
    before = values(model.variables)
    log = model.fit(as_dataset(batch), verbose=0).history
    for a, b in zip(before, values(model.variables)):
        np.testing.assert_array_equal(a, b)
    assert log["dropped_examples"][0] == 12
    assert all(np.all(np.isfinite(values)) for values in log.values())


def test_missing_values_that_the_network_fills_are_not_bad():
    class Fill(layers.Layer):
        def call(self, x):
            return keras.ops.nan_to_num(x)

    (x, y, ids), target = data()
    x[4, 0] = np.nan
    network = keras.Sequential([keras.Input((5,)), Fill(), layers.Dense(3)])
    model = compiled(network, kb.weighting.Soseleto(12))
    log = model.fit(as_dataset(((x, y, ids), target)), verbose=0).history
    assert log["dropped_examples"][0] == 0
    assert np.count_nonzero(model.weighting.example_scores) == 12


def test_an_example_twice_in_a_batch_moves_twice():
    once = compiled(tanh_network(), kb.weighting.Soseleto(12))
    (x, y, _), target = data()
    x[1], y[1] = x[0], y[0]
    twice = compiled(tanh_network(), kb.weighting.Soseleto(12))
    twice.model.set_weights(once.model.get_weights())
    for model, first in ((once, 1), (twice, 0)):
        ids = np.arange(12)
        ids[1] = first
        model.fit(as_dataset(((x, y, ids), target)), verbose=0)
    np.testing.assert_allclose(
        twice.weighting.example_scores[0],
        once.weighting.example_scores[:2].sum(),
        rtol=1e-5,
    )


def test_regularisers_of_both_networks_count_once():
    hidden = layers.Dense(7, kernel_regularizer=keras.regularizers.L2(0.5))
    x_t, x_s = keras.Input((5,)), keras.Input((5,))
    target = keras.Model(x_t, layers.Dense(3)(hidden(x_t)))
    source = keras.Model(
        x_s,
        layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.25))(
            hidden(x_s)
        ),
    )
    model = kb.BilevelModel(
        target, weighting=kb.weighting.Soseleto(12), source_model=source
    )
    model.compile(keras.optimizers.SGD(RATE), loss_of())
    twin = keras.models.clone_model(target)
    twin.set_weights(target.get_weights())
    step = train_step(model, *transfer_batch())
    penalty = float(step.upper.loss)
    assert np.isfinite(penalty)
    kernel = values(hidden.trainable_variables)[0]
    # What remains of the kernel's change is the data's part.
    data_part = values([step.gradients[0]])[0]
    np.testing.assert_allclose(
        kernel,
        twin.get_weights()[0]
        - RATE * (data_part + 2 * 0.5 * twin.get_weights()[0]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_activity_regulariser_acts_at_full_strength():
    """It has no example weight: the same for all weights, memory or not."""
    changes = []
    for weighting in (
        kb.weighting.Soseleto(12, initial=0.0, clip=(0.0, 1e-9)),
        kb.weighting.Soseleto(
            12, initial=0.0, clip=(0.0, 1e-9), update_weights_first=True
        ),
    ):
        keras.utils.set_random_seed(0)
        network = tanh_network(activity_regularizer=keras.regularizers.L2(0.1))
        before = network.get_weights()
        model = compiled(network, weighting)
        model.fit(as_dataset(data()), verbose=0)
        changes.append([b - a for a, b in zip(before, network.get_weights())])
    assert np.abs(changes[0][0]).max() > 1e-4
    for a, b in zip(*changes):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_examples": 0},
        {"num_examples": 2.5},
        {"alpha_lr": 0.0},
        {"initial": 2.0},
        {"clip": (1.0, 0.0)},
        {"clip": (-1.0, 1.0)},
    ],
)
def test_invalid_arguments(kwargs):
    with pytest.raises(ValueError, match="Expected"):
        kb.weighting.Soseleto(**{"num_examples": 12, **kwargs})


def test_ids_out_of_range_are_an_error_before_the_step():
    model = compiled(tanh_network(), kb.weighting.Soseleto(12))
    before = values(model.trainable_variables)
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_examples"):
        model.fit(as_dataset(data(ids=range(1, 13))), verbose=0)
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)


def test_wrong_source_size_is_an_error_before_the_first_step(tmp_path):
    model = compiled(tanh_network(), kb.weighting.Soseleto(12))
    model.fit(as_dataset(data()), verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    other = compiled(tanh_network(), kb.weighting.Soseleto(13))
    with pytest.raises(ValueError, match="source set of the size"):
        other.load_weights(tmp_path / "m.weights.h5")


def test_more_source_examples_than_weights_are_an_error():
    model = compiled(tanh_network(), kb.weighting.Soseleto(12))
    dataset = kb.data.source_target_batches(batch_of(40), batch_of(6), 8, 4)
    with pytest.raises(ValueError, match="num_examples=12"):
        model.fit(dataset.prefetch(1), verbose=0)
    assert model.optimizer.iterations.numpy() == 0


def test_disjoint_models_are_an_error():
    with pytest.raises(ValueError, match="share trainable layers"):
        kb.BilevelModel(
            tanh_network(),
            weighting=kb.weighting.Soseleto(12),
            source_model=tanh_network(),
        )


def test_source_loss_without_a_source_model_is_an_error():
    with pytest.raises(ValueError, match="without a `source_model`"):
        kb.BilevelModel(
            tanh_network(), kb.weighting.Soseleto(12), source_loss="mse"
        )


def test_a_pair_without_a_loss_is_an_error():
    target, source = two_networks()
    model = kb.BilevelModel(
        target, kb.weighting.Soseleto(12), source_model=source
    )
    model.compile("sgd")
    with pytest.raises(ValueError, match="loss"):
        model.fit(as_dataset(transfer_batch()), verbose=0)


def test_source_model_with_shards_is_an_error():
    target, source = two_networks()
    with pytest.raises(ValueError, match="weighs shards"):
        kb.BilevelModel(target, kb.weighting.DeepBilevel(), source_model=source)


@pytest.mark.parametrize("where", ["loss", "dict", "source_loss"])
def test_reduction_that_is_not_linear_is_an_error(where):
    bad = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    if where == "source_loss":
        model = transfer_model(source_loss=bad)
    else:
        model = compiled(
            tanh_network(),
            kb.weighting.LearningToReweight(),
            loss=[bad] if where == "dict" else bad,
        )
    with pytest.raises(ValueError, match="sum_over_batch_size"):
        model.fit(as_dataset(transfer_batch()), verbose=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda source, target: (target, source),
        lambda source, target: source,
        lambda source, target: (source[:2], target),
        lambda source, target: ((*source[:2], source[0][:, 0]), target),
        lambda source, target: (source, target[0]),
    ],
)
def test_wrong_structure_is_an_error_that_shows_the_call(wrong):
    model = compiled(tanh_network(), kb.weighting.Soseleto(12))
    with pytest.raises(ValueError, match="source_target_batches"):
        model.fit(as_dataset(wrong(*data())), verbose=0)


def test_batches_of_different_sizes_are_fine():
    model = compiled(tanh_network(), kb.weighting.Soseleto(12))
    source = tf.data.Dataset.from_tensor_slices(data()[0]).batch(8)
    target = tf.data.Dataset.from_tensors(data()[1]).repeat()
    model.fit(tf.data.Dataset.zip(source, target), verbose=0)
    assert np.count_nonzero(model.weighting.example_scores) == 12


@pytest.mark.parametrize("first", [False, True])
def test_duplicates_move_by_the_sum_of_their_moves(first):
    rng = np.random.default_rng(0)
    weighting = kb.weighting.Soseleto(
        9, alpha_lr=2.0, initial=0.5, update_weights_first=first
    )
    ids = np.array([3, 1, 3, 8, 1, 3, 0])
    moves = rng.normal(size=7).astype("float32")
    weighting.update(
        tf.constant(ids), {"alignment": tf.constant(moves)[None]}, 0.25
    )
    sums = np.zeros(9)
    np.add.at(sums, ids, 2.0 * 0.25 * moves.astype("float64"))
    np.testing.assert_allclose(weighting.example_scores, sums, atol=1e-6)
    np.testing.assert_allclose(
        weighting.example_weights, np.clip(0.5 + sums, 0.0, 1.1), atol=1e-6
    )


def sizes_in_graph(function, *args):
    """Returns the numbers in the shapes of all tensors of a traced function."""
    graph = tf.function(function).get_concrete_function(*args).graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node]
    for inner in definition.library.function:
        nodes += inner.node_def
    return {
        dim.size
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
        for dim in shape.dim
    }


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("make", [tanh_network, with_batch_norm])
def test_step_makes_no_tensor_of_the_size_of_the_source_set(make, first):
    size = 12347
    weighting = kb.weighting.Soseleto(size, update_weights_first=first)
    model = compiled(make(), weighting)
    batch = keras.tree.map_structure(tf.constant, data(ids=range(7, 19)))
    model.train_step(batch)  # What is built and checked at first is.
    sizes = sizes_in_graph(model.train_step, batch)
    assert 12 in sizes and size not in sizes
    # Reading all weights would be seen.
    read = sizes_in_graph(lambda: tf.reduce_sum(weighting.alpha.value + 0.0))
    assert size in read


def test_number_of_examples_is_that_of_the_source_set(tmp_path):
    x, y = batch_of(24)
    dataset = kb.data.source_target_batches((x, y), (x[:6], y[:6]), 12, 6)
    model = compiled(tanh_network(), "soseleto")
    twin = compiled(tanh_network(), kb.weighting.Soseleto(24))
    twin.model.set_weights(model.model.get_weights())
    for one in (model, twin):
        seeded = kb.data.source_target_batches(
            (x, y), (x[:6], y[:6]), 12, 6, seed=1
        )
        one.fit(seeded, epochs=2, verbose=0)
    scores = model.weighting.example_scores
    np.testing.assert_array_equal(scores, twin.weighting.example_scores)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.weighting.example_scores, scores)
    model.save_weights(tmp_path / "m.weights.h5")
    fresh = compiled(tanh_network(), "soseleto")
    fresh.load_weights(tmp_path / "m.weights.h5")
    fresh.fit(dataset, verbose=0)
    assert len(fresh.weighting.example_scores) == 24


def test_unknown_number_of_examples_is_an_error_before_the_first_step():
    (x, y, ids), target = data()
    model = compiled(tanh_network(), kb.weighting.Soseleto())
    with pytest.raises(ValueError, match="Expected `num_examples`.*Received"):
        model.fit(as_dataset(((x, y, ids), target)), verbose=0)
    with pytest.raises(ValueError, match="Expected `num_examples`"):
        model.weighting.example_scores


def test_model_without_a_number_is_saved_before_its_first_fit(tmp_path):
    x, y = batch_of(24)
    model = compiled(tanh_network(), "soseleto")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.weighting.num_examples is None
    loaded.fit(
        kb.data.source_target_batches((x, y), (x[:6], y[:6]), 12, 6), verbose=0
    )
    assert len(loaded.weighting.example_scores) == 24
