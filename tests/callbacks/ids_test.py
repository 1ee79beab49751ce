"""Ids that do not belong to one example each are noticed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from keras_bilevel.callbacks.example_observer import ExampleObserver
from tests.distribute import runs
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network

N = 64
MESSAGE = (
    "belong to the same example.*Received: .* ids with another label.*"
    "shuffle=False"
)


def shuffled(x, y, reshuffle=True):
    """A dataset in another order each time, as Keras' loaders make it."""
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return dataset.shuffle(N, seed=1, reshuffle_each_iteration=reshuffle)


def stratified(dataset):
    return kb.data.stratified_batches(
        dataset, num_shards=4, shard_size=4, ids=True, seed=0
    ).apply(tf.data.experimental.assert_cardinality(3))


def fit(batches, history, epochs=3, loss=None, network=None):
    options = {} if loss is None else {"loss": loss}
    model = compiled(network or tanh_network(), **options)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[history])
    return history


LABELS = {
    "class": (lambda y: y, "sparse_categorical_crossentropy", 3),
    "column": (lambda y: y[:, None], "sparse_categorical_crossentropy", 3),
    "one-hot": (
        lambda y: np.eye(3, dtype="float32")[y],
        "categorical_crossentropy",
        3,
    ),
    "two": (
        lambda y: (y[:, None] > 0).astype("float32"),
        "binary_crossentropy",
        1,
    ),
    "several": (
        lambda y: np.stack([y == 0, y != 1], 1).astype("int32"),
        "binary_crossentropy",
        2,
    ),
}


@pytest.mark.parametrize("kind", LABELS)
def test_positions_in_a_shuffled_dataset(kind):
    x, y = batch_of(N)
    make, loss, units = LABELS[kind]
    network = tanh_network(classes=units)
    options = {"stratify_by": None} if units < 3 else {}

    def batches(reshuffle):
        return kb.data.stratified_batches(
            shuffled(x, make(y), reshuffle),
            num_shards=4,
            shard_size=4,
            ids=True,
            seed=0,
            **options,
        ).apply(tf.data.experimental.assert_cardinality(3))

    history = kb.callbacks.ExampleHistory(N)
    with pytest.raises(ValueError, match=MESSAGE):
        fit(batches(True), history, loss=loss, network=network)
    history = kb.callbacks.ExampleHistory(N)
    fit(batches(False), history, loss=loss, network=network)
    assert np.isfinite(history.example_scores).sum() >= 48


def test_own_ids_may_come_in_any_order():
    x, y = batch_of(N)
    parts = x, y, np.ones(N, "float32"), np.arange(N)
    dataset = tf.data.Dataset.from_tensor_slices(parts)
    dataset = dataset.shuffle(N, reshuffle_each_iteration=True)
    history = fit(stratified(dataset), kb.callbacks.ExampleHistory(N))
    assert np.isfinite(history.example_scores).sum() >= 48


def test_selection_notices_as_well():
    x, y = batch_of(N)
    ids = tf.data.Dataset.range(N)
    dataset = tf.data.Dataset.zip(shuffled(x, y), ids).map(
        lambda pair, i: (*pair, 1.0, i)
    )
    model = kb.SelectionModel(tanh_network(), rule=kb.selection.SelfPaced())
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    with pytest.raises(ValueError, match=MESSAGE):
        model.fit(
            dataset.batch(16),
            epochs=2,
            verbose=0,
            callbacks=[kb.callbacks.SelectionHistory(N)],
        )


def test_an_example_observer_is_the_check_alone():
    x, y = batch_of(N)
    observer = ExampleObserver(N)
    with pytest.raises(ValueError, match=MESSAGE):
        fit(stratified(shuffled(x, y)), observer)
    observer = fit(stratified(shuffled(x, y, False)), ExampleObserver(N))
    assert np.count_nonzero(observer.get_state()["label_high"]) >= 48


def mixed(x, y, w, ids):
    """Mixup with one share for each example."""
    share = tf.random.uniform((tf.shape(x)[0], 1), 0.2, 0.8)
    return (
        share * x + (1 - share) * x[::-1],
        share * y + (1 - share) * y[::-1],
        w,
        ids,
    )


def noisy(x, y, w, ids):
    return x + tf.random.normal(tf.shape(x)), y, w, ids


@pytest.mark.parametrize("augment", [mixed, noisy])
def test_augmentation_after_batching_is_no_alarm(augment):
    x, y = batch_of(N)
    y = np.eye(3, dtype="float32")[y]
    batches = kb.data.stratified_batches(
        (x, y), num_shards=4, shard_size=4, ids=True
    ).map(augment)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    history = fit(batches, kb.callbacks.ExampleHistory(N), 5, loss)
    assert np.isfinite(history.example_scores).sum() >= 48


def test_augmentation_before_batching_is_no_alarm():
    x, y = batch_of(N)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).map(
        lambda x, y: (x + tf.random.normal(tf.shape(x)), y)
    )
    history = fit(stratified(dataset), kb.callbacks.ExampleHistory(N))
    assert np.isfinite(history.example_scores).sum() >= 48


def test_masks_that_turn_with_their_images_are_no_alarm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4, 4, 2)).astype("float32")
    y = rng.integers(0, 3, (N, 4, 4))

    def flipped(x, y, w, ids):
        flip = tf.random.uniform(()) < 0.5
        return (
            tf.where(flip, x[:, :, ::-1], x),
            tf.where(flip, y[:, :, ::-1], y),
            w,
            ids,
        )

    batches = kb.data.shuffled_batches((x, y), 16).map(flipped)
    network = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 1)]
    )
    history = fit(batches, kb.callbacks.ExampleHistory(N), 5, network=network)
    assert np.all(np.isfinite(history.example_scores))


def test_targets_of_a_regression_that_move_are_no_alarm():
    x, _ = batch_of(N)
    batches = kb.data.shuffled_batches((x, np.round(x[:, :1])), 16).map(
        lambda x, y, w, ids: (x, tf.round(y + tf.random.normal(())), w, ids)
    )
    network = tanh_network(classes=1)
    history = fit(batches, kb.callbacks.ExampleHistory(N), 5, "mse", network)
    assert np.all(np.isfinite(history.example_scores))


def test_rows_that_were_replaced_are_no_alarm():
    x, y = batch_of(N)
    x[5] = np.nan
    model = kb.SelectionModel(tanh_network(), rule=kb.selection.SelfPaced())
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = kb.callbacks.SelectionHistory(N)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[history])
    np.testing.assert_array_equal(
        np.all(history.kept >= 0, axis=0), np.arange(N) != 5
    )


def test_no_labels_share_a_number():
    from keras_bilevel.callbacks import fingerprints
    from keras_bilevel.engine.compiled_losses import outputs_of

    model = tanh_network(classes=10)
    many = np.array(np.meshgrid(*[[0, 1]] * 10)).reshape(10, -1).T
    y_pred = np.zeros((len(many), 10), "float32")
    for loss, y in (
        ("sparse_categorical_crossentropy", np.arange(1024)),
        ("binary_crossentropy", many.astype("float32")),
    ):
        model.compile("sgd", loss)
        (output,) = outputs_of(model, y % 10 if y.ndim == 1 else y, y_pred)
        output.y = y
        codes = np.asarray(fingerprints.fingerprints(output))
        assert np.all(codes != 0) and len(np.unique(codes)) == 1024


def test_replicas_notice_as_well():
    x, y = batch_of(N)
    with runs.mirrored(2).scope():
        model = kb.SelectionModel(tanh_network(), rule=kb.selection.SelfPaced())
        model.compile(
            "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=2,
        verbose=0,
        callbacks=[history := ExampleObserver(N)],
    )
    labels = history.get_state()["label_high"]
    assert len(np.unique(labels)) == 3 and np.all(labels != 0)
    with pytest.raises(ValueError, match=f"Received: {N} ids"):
        model.fit(
            x,
            (y + 1) % 3,
            batch_size=16,
            verbose=0,
            callbacks=[history],
        )


@pytest.mark.parametrize("run", ["jit_compile", "run_eagerly"])
def test_other_ways_to_run_a_step(run):
    x, y = batch_of(N)
    model = compiled(tanh_network(), **{run: True})
    history = kb.callbacks.ExampleHistory(N)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[history])
    assert np.isfinite(history.example_scores).sum() >= 48
    with pytest.raises(ValueError, match=MESSAGE):
        model.fit(x, (y + 1) % 3, batch_size=16, verbose=0, callbacks=[history])


@pytest.mark.parametrize("is_fixed", [True, False])
def test_weights_of_a_shuffled_source_are_an_error(is_fixed):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5)).astype("float32")
    y = rng.integers(0, 3, 64)
    source = tf.data.Dataset.from_tensor_slices((x, y))
    if not is_fixed:
        source = source.shuffle(64)
    batches = kb.data.source_target_batches(source, (x[:8], y[:8]), 16, 8)
    model = kb.BilevelModel(
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")]),
        kb.weighting.Soseleto(64),
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    if is_fixed:
        for _ in range(2):
            model.fit(batches, epochs=2, verbose=0)
        assert np.all(model.weighting.example_scores != 0)
        return
    with pytest.raises(ValueError, match="same example in each epoch"):
        model.fit(batches, epochs=2, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("first", [-1, 5])
def test_ids_out_of_range_are_an_error(first, jit_compile):
    x, y = batch_of(N)
    ids = np.arange(N) + first
    weights = np.ones(N, "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights, ids))
    history = kb.callbacks.ExampleHistory(N)
    model = compiled(tanh_network(), jit_compile=jit_compile)
    error = ValueError if jit_compile else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=r"ids in \[0, 64\).*ids? outside"):
        model.fit(
            dataset.batch(N, drop_remainder=True),
            verbose=0,
            callbacks=[history],
        )
