"""NumPy feeds the same batches as tf.data."""

import keras
import numpy as np
import pytest

from keras_bilevel import data
from keras_bilevel.data import arrays
from keras_bilevel.data import batches
from keras_bilevel.data import class_weights
from keras_bilevel.data import labels
from keras_bilevel.data import pipelines

RNG = np.random.default_rng(0)
X = {"a": RNG.normal(size=(50, 3)), "b": (RNG.integers(9, size=(50, 2)),)}
Y = RNG.integers(3, size=50)
W = RNG.random(50)

DATASETS = {
    "stratified": lambda: data.stratified_batches(
        (X, Y, W), 2, 4, ids=True, seed=3
    ),
    "stratified with a split": lambda: data.stratified_batches(
        (X, Y), 3, 2, validation_ratio=0.4, seed=3
    ),
    "stratified by a function": lambda: data.stratified_batches(
        (X, Y), 2, 4, stratify_by=lambda x, y: x["b"][0][0] > 4, seed=3
    ),
    "in order": lambda: data.stratified_batches(
        (X, Y), 2, 4, shuffle=False, seed=3
    ),
    "shuffled": lambda: data.shuffled_batches((X, Y), 8, seed=3),
    "a window": lambda: data.shuffled_batches(
        (X, Y), 8, steps_per_epoch=9, seed=3
    ),
    "pairs": lambda: data.source_target_batches(
        (X, Y), (X, Y, W), 16, 4, seed=3
    ),
    "short pairs": lambda: data.source_target_batches(
        (X, Y, W), (X, Y), 16, 4, drop_remainder=False, seed=3
    ),
}


@pytest.fixture
def without_tensorflow(monkeypatch):
    def remove():
        for module in (arrays, labels, pipelines):
            monkeypatch.setattr(module, "tf", None)

    return remove


def epochs_of(dataset):
    return [
        [keras.tree.map_structure(np.asarray, batch) for batch in dataset]
        for _ in range(3)
    ]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other)
        for batch, expected in zip(one, other):
            keras.tree.assert_same_structure(batch, expected)
            pairs = map(keras.tree.flatten, (batch, expected))
            for leaf, value in zip(*pairs):
                np.testing.assert_array_equal(leaf, value)
                assert leaf.dtype == value.dtype


@pytest.mark.parametrize("name", list(DATASETS))
def test_numpy_feeds_the_same_batches(name, without_tensorflow):
    expected = DATASETS[name]()
    without_tensorflow()
    dataset = DATASETS[name]()
    assert isinstance(dataset, pipelines.NumpyBatches)
    assert len(dataset) == int(expected.cardinality())
    assert_same(epochs_of(dataset), epochs_of(expected))
    ours, theirs = dataset.origin, expected.origin
    assert (ours.seed, ours.num_examples) == (3, theirs.num_examples)
    assert ours.ids_are_positions == theirs.ids_are_positions
    assert (ours.layout is None) == (theirs.layout is None)


@pytest.mark.parametrize("name", list(DATASETS))
def test_numpy_knows_the_spec(name, without_tensorflow):
    expected = DATASETS[name]().element_spec
    without_tensorflow()
    spec = DATASETS[name]().element_spec
    keras.tree.assert_same_structure(spec, expected)
    for ours, theirs in zip(*map(keras.tree.flatten, (spec, expected))):
        assert ours.dtype.name == theirs.dtype.name
        theirs.shape.assert_is_compatible_with(ours.shape)
    is_pair = "pairs" in name
    assert batches.is_source_and_target(spec) == is_pair
    if not is_pair:
        size = batches.batch_size_of(expected)
        assert batches.batch_size_of(spec) == size


def test_epochs_are_numbered_without_tensorflow(without_tensorflow):
    without_tensorflow()
    dataset = DATASETS["shuffled"]()
    first, second, _ = epochs_of(dataset)
    (counter,) = data.epoch_counters(dataset)
    counter.set(1)
    again, _, _ = epochs_of(dataset)
    assert_same([second], [again])
    with pytest.raises(AssertionError):
        assert_same([first], [again])


@pytest.mark.parametrize("name", ["stratified", "shuffled", "short pairs"])
@pytest.mark.parametrize("kind", ["integers", "column", "one-hot"])
def test_classes_weigh_the_same_without_tensorflow(
    name, kind, without_tensorflow, monkeypatch
):
    forms = {"column": Y[:, None], "one-hot": np.eye(3)[Y]}
    monkeypatch.setitem(globals(), "Y", forms.get(kind, Y))
    weights = {0: 2.0, 2: 0.5}
    expected = class_weights.weighted(DATASETS[name](), weights)
    without_tensorflow()
    dataset = class_weights.weighted(DATASETS[name](), weights)
    assert isinstance(dataset, pipelines.NumpyBatches)
    assert_same(epochs_of(dataset), epochs_of(expected))


def test_text_labels_are_refused_without_tensorflow(without_tensorflow):
    without_tensorflow()
    dataset = data.stratified_batches(
        (X, np.array(["a", "b"])[Y % 2]), 2, 4, stratify_by=Y
    )
    with pytest.raises(ValueError, match="labels that are numbers"):
        batches.check_labels(batches.spec_of(dataset))


def test_group_of_a_function_is_checked_without_tensorflow(without_tensorflow):
    without_tensorflow()
    with pytest.raises(ValueError, match="returned dtype float32 and shape"):
        data.stratified_batches((X, Y), stratify_by=lambda x, y: x["a"][0])


@pytest.mark.parametrize("feeds", ["tf.data", "NumPy"])
def test_processes_share_the_rows_of_each_batch(without_tensorflow, feeds):
    if feeds == "NumPy":
        without_tensorflow()
    pairs = DATASETS["pairs"]
    assert isinstance(pairs(), pipelines.NumpyBatches) == (feeds == "NumPy")
    parts = [pipelines.PartOfBatches(pairs(), i, 2) for i in (0, 1)]
    assert len(parts[0]) == len(pairs())
    for whole, *halves in zip(pairs(), *parts, strict=True):
        leaves = map(keras.tree.flatten, (whole, *halves))
        for one, first, second in zip(*leaves, strict=True):
            np.testing.assert_array_equal(np.concatenate([first, second]), one)


def test_processes_that_cannot_share_evenly_are_refused():
    with pytest.raises(ValueError, match="16 rows for 3 processes"):
        next(iter(pipelines.PartOfBatches(DATASETS["pairs"](), 0, 3)))
