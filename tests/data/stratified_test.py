import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bilevel.data import epoch_counters
from keras_bilevel.data import stratified_batches

SIZES = {"num_shards": 4, "shard_size": 5}


def make_data(n=203, num_classes=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype("float32")
    return x, rng.integers(num_classes, size=n)


def assert_stratified(labels, num_shards=4):
    shards = np.sort(np.reshape(labels, (num_shards, -1)), axis=1)
    np.testing.assert_array_equal(shards, shards[:1] + 0 * shards)


def test_super_batches_are_static_stratified_and_counted():
    x, y = make_data()
    dataset = stratified_batches((x, y), **SIZES, seed=0)
    assert dataset.element_spec[0].shape == (20, 3)
    assert dataset.element_spec[1].shape == (20,)
    batches = list(dataset)
    assert len(batches) == dataset.cardinality() > 5
    for _, labels in batches:
        assert_stratified(labels)


def test_every_example_keeps_its_label_weight_and_id():
    x, y = make_data()
    weight = np.arange(len(x), dtype="float32")
    dataset = stratified_batches((x, y, weight), **SIZES, ids=True)
    for batch_x, batch_y, batch_weight, ids in dataset:
        assert ids.dtype == tf.int64
        np.testing.assert_array_equal(batch_x, x[ids])
        np.testing.assert_array_equal(batch_y, y[ids])
        np.testing.assert_array_equal(batch_weight, weight[ids])


def test_ids_come_with_weights_of_one():
    *_, weight, ids = next(iter(stratified_batches(make_data(), ids=True)))
    assert weight.dtype == tf.float32
    np.testing.assert_array_equal(weight, np.ones(128))
    assert len(np.unique(ids)) == 128


def test_weights_stay_without_ids():
    x, y = make_data()
    dataset = stratified_batches((x, y, np.ones(len(x))), **SIZES)
    assert len(dataset.element_spec) == 3


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float32"])
def test_one_hot_labels(dtype):
    x, y = make_data()
    one_hot = np.eye(4)[y].astype(dtype)
    expected = list(stratified_batches((x, y), **SIZES, seed=1))
    dataset = stratified_batches((x, one_hot), **SIZES, seed=1)
    for (_, labels), (_, vectors) in zip(expected, dataset, strict=True):
        assert vectors.dtype == dtype
        np.testing.assert_array_equal(labels, np.argmax(vectors, axis=1))


def test_a_column_of_labels_keeps_its_shape():
    x, y = make_data()
    dataset = stratified_batches((x, y[:, None]), **SIZES, seed=1)
    expected = stratified_batches((x, y), **SIZES, seed=1)
    for (_, column), (_, labels) in zip(dataset, expected, strict=True):
        np.testing.assert_array_equal(column[:, 0], labels)


def test_nested_inputs_and_labels():
    x, y = make_data()
    inputs = {"image": x, "more": [x[:, 0], (x[:, 1], tf.constant(x[:, 2]))]}
    labels = {"class": y, "score": x[:, 0]}
    dataset = stratified_batches(
        (inputs, labels),
        **SIZES,
        stratify_by=lambda x, y: y["class"],
        seed=1,
    )
    plain = stratified_batches((x, y), **SIZES, seed=1)
    for (x1, y1), (x2, y2) in zip(plain, dataset, strict=True):
        np.testing.assert_array_equal(x1, x2["image"])
        np.testing.assert_array_equal(x1[:, 2], x2["more"][1][1])
        np.testing.assert_array_equal(y1, y2["class"])
        np.testing.assert_array_equal(x1[:, 0], y2["score"])


def test_groups_from_an_array_and_from_a_function_agree():
    x, y = make_data()
    targets = x[:, 0]
    groups = (targets > 0).astype(int)
    given = stratified_batches(
        (x, targets), **SIZES, stratify_by=groups, seed=1
    )
    called = stratified_batches(
        (x, targets), **SIZES, stratify_by=lambda x, y: y > 0, seed=1
    )
    for (_, first), (_, second) in zip(given, called, strict=True):
        np.testing.assert_array_equal(first, second)
        assert_stratified(first > 0)


def test_stratify_by_none_mixes_the_labels():
    dataset = stratified_batches(make_data(), **SIZES, stratify_by=None)
    shards = np.sort([np.reshape(y, (4, 5)) for _, y in dataset], axis=2)
    assert np.any(shards != shards[:, :1])
    assert len(shards) == 203 // 4 // 5


def test_replicas_have_the_same_label_counts():
    dataset = stratified_batches(make_data(), **SIZES, num_replicas=2)
    for _, labels in dataset:
        assert labels.shape == (40,)
        assert_stratified(labels, num_shards=8)


def test_seed_zero_is_a_seed():
    def first(seed):
        dataset = stratified_batches(make_data(), **SIZES, seed=seed)
        return next(iter(dataset))[0].numpy()

    np.random.seed(1)
    expected = first(0)
    np.random.seed(2)
    np.testing.assert_array_equal(first(0), expected)
    assert np.any(first(1) != expected)


def test_set_random_seed_fixes_an_open_seed():
    def first():
        return next(iter(stratified_batches(make_data(), **SIZES)))[0].numpy()

    keras.utils.set_random_seed(3)
    expected = first()
    assert np.any(first() != expected)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(first(), expected)


def test_steps_per_epoch_is_the_cardinality():
    dataset = stratified_batches(make_data(), **SIZES, steps_per_epoch=30)
    assert dataset.cardinality() == 30
    assert len(list(dataset)) == 30


def test_fit_takes_the_batches():
    x, y = make_data()
    model = keras.Sequential([keras.layers.Dense(4)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    dataset = stratified_batches((x, y), **SIZES, seed=0)
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2
    assert epoch_counters(dataset)[0]() >= 2


def test_data_are_not_modified():
    x, y = make_data()
    before = x.copy(), y.copy()
    list(stratified_batches((x, y), **SIZES))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_shards": 1}, "`num_shards`.*num_shards=1"),
        ({"num_shards": 2.0}, "`num_shards`"),
        ({"shard_size": 0}, "`shard_size`.*shard_size=0"),
        ({"num_replicas": 0}, "`num_replicas`"),
        ({"num_validation_shards": 0}, "`num_validation_shards`"),
        ({"num_validation_shards": 8}, "fewer than num_shards=8"),
        ({"validation_ratio": 1.0}, "`validation_ratio`"),
        ({"validation_ratio": -0.1}, "`validation_ratio`"),
        ({"rare": "keep"}, "`rare`.*rare='keep'"),
        ({"rare": "error", "num_shards": 100}, "Lower `num_shards`"),
        ({"stratify_by": "class"}, "`stratify_by`"),
        ({"stratify_by": np.zeros(3, int)}, "each of 203 examples"),
        ({"stratify_by": np.zeros(203)}, "`stratify_by`"),
        ({"stratify_by": lambda x, y: x}, r"shape \(3,\)"),
        ({"stratify_by": lambda x, y: x[0]}, "dtype float32"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch`"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"seed": 1.5}, "`seed`"),
        ({"shard_size": 300}, r"300 tuples.*Lower `shard_size`"),
    ],
)
def test_argument_error(arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        stratified_batches(make_data(), **arguments)


@pytest.mark.parametrize(
    "labels",
    [
        np.random.rand(50),
        np.random.dirichlet(np.ones(3), size=50),
        np.ones((50, 3), int),
        np.array([0.0, 1.0] * 25),
        np.array(["a", "b"] * 25),
        {"class": np.zeros(50, int)},
        np.zeros((50, 6), int),
        np.zeros((50, 4, 4), int),
    ],
    ids=[
        "regression",
        "soft",
        "multi_label",
        "float",
        "string",
        "dict",
        "tokens",
        "pixels",
    ],
)
def test_labels_that_are_no_class_error(labels):
    if isinstance(labels, dict):
        received = "a dict"
    else:
        kind = {"f": "float32"}.get(labels.dtype.kind, labels.dtype)
        received = re.escape(f"dtype {kind} and shape {labels.shape}")
    message = f"`stratify_by`.*Received: y of {received}.*a function that maps"
    with pytest.raises(ValueError, match=message):
        stratified_batches((np.zeros((50, 2)), labels), 2, 2)


@pytest.mark.parametrize(
    "data",
    [
        (np.zeros(10), np.zeros(9, int)),
        ({"a": np.zeros(10), "b": np.zeros(9)}, np.zeros(10, int)),
        (np.zeros(10), np.zeros(10, int), np.ones(9)),
        (np.zeros(10), [0] * 9),
    ],
)
def test_lengths_error(data):
    with pytest.raises(ValueError, match="same length.*10"):
        stratified_batches(data, 2, 2)


@pytest.mark.parametrize("data", [np.zeros(9), (np.zeros(9),), [1, 2], None])
def test_data_error(data):
    with pytest.raises(ValueError, match="Expected a tuple"):
        stratified_batches(data)
