"""Meta-Weight-Net in float64 NumPy, and what it has to learn and keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.models import reference
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values

RATE, HIDDEN, META_LR = 0.1, 4, 50.0


def data():
    ids = np.arange(12)
    return (*batch_of(12), ids), batch_of(6, seed=1)


def weighting(**kwargs):
    return kb.weighting.MetaWeightNet(
        **{"hidden": HIDDEN, "meta_lr": META_LR, **kwargs}
    )


def weight_of(theta, loss):
    """V(loss) of one number, from the flat parameters of the small network."""
    kernel, bias, kernel_out = theta[:-1].reshape(3, -1)
    score = theta[-1]
    for a, b, c in zip(kernel, bias, kernel_out):
        score += c * max(a * loss + b, 0.0)
    return 1.0 / (1.0 + np.exp(-score))


def slope_of(theta, loss, step=1e-6):
    """dV(loss)/dTheta by central differences."""
    moves = step * np.eye(len(theta))
    return np.array(
        [
            (weight_of(theta + move, loss) - weight_of(theta - move, loss))
            / (2 * step)
            for move in moves
        ]
    )


def flat(weighting):
    parts = [v.numpy().astype("float64") for v in weighting.weights]
    return np.concatenate(parts)


def by_hand(weights, theta, batch, steps, meta_lr=META_LR):
    """Algorithm 1 with the clean gradient at the network as it is."""
    (x, y, _), target = batch
    weights = [w.astype("float64") for w in weights]
    for _ in range(steps):
        pairs = zip(x[:, None], y[:, None])
        each = [reference.loss_and_gradient(weights, *p) for p in pairs]
        _, judge = reference.loss_and_gradient(weights, *target)
        move = np.zeros_like(theta)
        for loss, gradient in each:
            alignment = sum(np.sum(a * b) for a, b in zip(gradient, judge))
            move += alignment * slope_of(theta, loss) / len(each)
        theta = theta + meta_lr * RATE * move
        used = [weight_of(theta, loss) for loss, _ in each]
        for i, variable in enumerate(weights):
            total = sum(v * g[i] for v, (_, g) in zip(used, each))
            weights[i] = variable - RATE * total / len(each)
    return weights, theta, np.array(used)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, {"jit_compile": True}]
)
def test_steps_equal_the_papers(steps, options):
    network, own = tanh_network(), weighting()
    start = flat(own)
    expected, theta, used = by_hand(
        values(network.weights), start, data(), steps
    )
    history = kb.callbacks.WeightHistory()
    model = compiled(network, own, **options)
    model.fit(batched(*data(), repeat=steps), verbose=0, callbacks=[history])
    np.testing.assert_allclose(flat(own), theta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(history.weights[-1], used, atol=1e-5)
    for variable, value in zip(network.weights, expected):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-5)
    # A Theta that had not moved would leave other weights.
    first = [weight_of(start, loss) for loss in (0.5, 1.0, 2.0)]
    last = [weight_of(theta, loss) for loss in (0.5, 1.0, 2.0)]
    assert np.abs(np.subtract(first, last)).max() > 1e-2


def test_weight_of_is_the_function():
    own = weighting()
    losses = np.array([[0.0, 0.3], [1.0, 7.0]])
    expected = [[weight_of(flat(own), x) for x in row] for row in losses]
    np.testing.assert_allclose(own.weight_of(losses), expected, rtol=1e-5)


def test_bad_example_weighs_nothing_and_moves_nothing():
    (x, y, ids), target = data()
    others = np.arange(12) != 3
    x[3] = np.nan
    network, own = tanh_network(), weighting()
    start, before = flat(own), values(network.weights)
    step = train_step(compiled(network, own), (x, y, ids), target)
    assert np.flatnonzero(step.dropped).tolist() == [3]
    assert step.weights[0, 3] == 0
    # The means are over all twelve; the eleven others are as without it.
    rest = (x[others], y[others], ids[others])
    _, theta, _ = by_hand(before, start, (rest, target), 1)
    theta = start + (theta - start) * 11 / 12
    pairs = zip(x[others][:, None], y[others][:, None])
    losses = [reference.loss_and_gradient(before, *p)[0] for p in pairs]
    used = [weight_of(theta, loss) for loss in losses]
    np.testing.assert_allclose(flat(own), theta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(step.weights[0][others], used, atol=1e-5)
    assert all(np.all(np.isfinite(v)) for v in values(network.weights))


def test_bad_target_moves_nothing():
    source, target = data()
    target[0][0] = np.nan
    model = compiled(tanh_network(), weighting())
    before = values(model.variables)
    model.fit(batched(source, target), verbose=0)
    for a, b in zip(before, values(model.variables)):
        np.testing.assert_array_equal(a, b)


def test_theta_is_saved_and_restored_with_the_model(tmp_path):
    model = compiled(tanh_network(), weighting(hidden=7))
    model.fit(batched(*data(), repeat=3), verbose=0)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    other = compiled(tanh_network(), weighting(hidden=7))
    other.load_weights(tmp_path / "m.weights.h5")
    for restored in (loaded, other):
        np.testing.assert_array_equal(
            flat(model.weighting), flat(restored.weighting)
        )
    for one in (model, loaded):
        one.fit(batched(*data()), verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables)):
        np.testing.assert_array_equal(a, b)


def test_theta_is_no_part_of_what_the_optimizer_trains():
    model = compiled(tanh_network(), weighting())
    theirs = {id(v) for v in model.weighting.weights}
    assert len(theirs) == 4
    assert not theirs & {id(v) for v in model.trainable_variables}
    assert model.count_params() == model.model.count_params() + 3 * HIDDEN + 1


def test_config_makes_the_same_weighting():
    config = keras.saving.serialize_keras_object(weighting())
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, kb.weighting.MetaWeightNet)
    assert again.get_config() == {"hidden": HIDDEN, "meta_lr": META_LR}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"hidden": 0},
        {"hidden": 2.5},
        {"meta_lr": 0.0},
        {"meta_lr": -1.0},
        {"meta_lr": float("inf")},
        {"meta_lr": float("nan")},
    ],
)
def test_invalid_arguments(kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=f"`{name}`. Expected.*Received"):
        weighting(**kwargs)


def blobs(rng, size):
    y = rng.integers(0, 3, size)
    centres = 4.0 * np.eye(3, 5)
    x = centres[y] + rng.normal(size=(size, 5))
    return x.astype("float32"), y


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrong_labels_come_to_weigh_less(seed):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    (x, y), clean = blobs(rng, 480), blobs(rng, 60)
    wrong = rng.random(480) < 0.4
    given = np.where(wrong, (y + rng.integers(1, 3, 480)) % 3, y)
    model = compiled(
        tanh_network(), kb.weighting.MetaWeightNet(), keras.optimizers.SGD(0.3)
    )
    batches = kb.data.source_target_batches(
        (x, given), clean, source_size=48, target_size=60, seed=seed
    )
    model.fit(batches, epochs=40, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(
        given, model.predict(x, verbose=0), from_logits=True
    )
    weights = model.weighting.weight_of(losses).numpy()
    assert weights[wrong].mean() < 0.6 * weights[~wrong].mean()
    falling = model.weighting.weight_of(np.linspace(0.1, 4.0, 40)).numpy()
    assert falling[0] > 2 * falling[-1]


def test_batches_of_different_sizes_are_fine():
    source, target = data()
    own = weighting()
    start, model = flat(own), compiled(tanh_network(), own)
    batches = tf.data.Dataset.from_tensor_slices(source).batch(8)
    targets = tf.data.Dataset.from_tensors(target).repeat()
    model.fit(tf.data.Dataset.zip(batches, targets), verbose=0)
    assert np.all(np.isfinite(flat(own))) and np.any(flat(own) != start)


def test_ids_do_not_matter():
    (x, y, ids), target = data()
    found = []
    for theirs in (ids, ids * 0 + 10**9):
        keras.utils.set_random_seed(0)
        model = compiled(tanh_network(), weighting())
        dataset = tf.data.Dataset.from_tensors(((x, y, theirs), target))
        model.fit(dataset, verbose=0)
        found.append(values(model.variables))
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)
