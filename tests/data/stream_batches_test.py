import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bilevel.data import epoch_counters
from keras_bilevel.data import stratified_batches

SIZES = {"num_shards": 4, "shard_size": 3}


def make_data(seed=0, n=150):
    rng = np.random.default_rng(seed)
    return np.arange(n, dtype="float32"), rng.integers(3, size=n)


def make_stream(*columns):
    return tf.data.Dataset.from_tensor_slices(columns or make_data())


def read_ids(dataset):
    return np.array([batch[3] for batch in dataset])


def assert_stratified(labels, num_shards=4):
    shards = np.sort(np.reshape(labels, (num_shards, -1)), axis=1)
    np.testing.assert_array_equal(shards, shards[:1] + 0 * shards)


# Not hypothesis: to shrink a failure is to trace hundreds of datasets, which
# takes minutes and looks like a hang.
@pytest.mark.parametrize(
    "seed, num_replicas, shuffle_buffer", [(0, 1, 1), (1, 2, 40), (2, 1, 1000)]
)
def test_an_epoch_sees_each_example_once_in_equal_shards(
    seed, num_replicas, shuffle_buffer
):
    x, y = make_data(seed)
    dataset = stratified_batches(
        make_stream(x, y),
        **SIZES,
        num_replicas=num_replicas,
        shuffle_buffer=shuffle_buffer,
        ids=True,
        seed=seed,
    )
    ids = []
    for batch_x, batch_y, weight, batch_ids in dataset:
        np.testing.assert_array_equal(batch_x, x[batch_ids])
        np.testing.assert_array_equal(batch_y, y[batch_ids])
        np.testing.assert_array_equal(weight, np.ones_like(batch_x))
        assert_stratified(batch_y, 4 * num_replicas)
        ids.extend(batch_ids.numpy())
    assert len(np.unique(ids)) == len(ids)
    num_tuples = (np.bincount(y) // (4 * num_replicas)).sum()
    assert len(ids) == num_tuples // 3 * 3 * 4 * num_replicas


def test_order_is_a_function_of_seed_and_epoch_alone():
    def make(seed):
        dataset = stratified_batches(
            make_stream(), **SIZES, ids=True, seed=seed
        )
        return dataset, epoch_counters(dataset.prefetch(1))[0]

    tf.random.set_seed(1)
    dataset, counter = make(0)
    epochs = [read_ids(dataset) for _ in range(3)]
    assert np.any(epochs[0] != epochs[1]) and np.any(epochs[1] != epochs[2])
    counter.set(1)
    np.testing.assert_array_equal(read_ids(dataset), epochs[1])
    tf.random.set_seed(2)
    resumed, counter = make(0)
    counter.set(2)
    np.testing.assert_array_equal(read_ids(resumed), epochs[2])
    other, _ = make(1)
    assert np.any(read_ids(other) != epochs[0])


def test_building_leaves_the_global_seed_alone():
    tf.random.set_seed(5)
    expected = tf.random.uniform([3])
    tf.random.set_seed(5)
    next(iter(stratified_batches(make_stream(), **SIZES, seed=0)))
    np.testing.assert_array_equal(tf.random.uniform([3]), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.2])
def test_without_shuffle_a_stream_equals_arrays(ratio):
    arguments = {
        **SIZES,
        "validation_ratio": ratio,
        "num_replicas": 2,
        "num_validation_shards": 2,
        "shuffle": False,
        "ids": True,
        "seed": 0,
    }
    arrays = stratified_batches(make_data(), **arguments)
    stream = stratified_batches(make_stream(), **arguments)
    assert stream.element_spec == arrays.element_spec
    np.testing.assert_array_equal(read_ids(stream), read_ids(arrays))


def test_without_shuffle_chunks_come_in_turn():
    dataset = stratified_batches(
        make_stream(),
        **SIZES,
        shuffle_buffer=40,
        shuffle=False,
        ids=True,
        seed=0,
    )
    ids = read_ids(dataset)
    # A super-batch is of one chunk, or of what chunks before it left.
    of_chunk = [b for b in ids if np.ptp(b // 40) == 0]
    assert 0 < len(of_chunk) < len(ids)
    assert np.all(np.diff([np.min(b) // 40 for b in of_chunk]) >= 0)
    for batch in ids:
        shards = batch.reshape(4, 3)
        assert np.all(np.diff(shards, axis=0) > 0)


def test_validation_cycles_go_on_from_chunk_to_chunk():
    x, y = make_data()
    dataset = stratified_batches(
        make_stream(x, y),
        **SIZES,
        validation_ratio=0.1,
        shuffle_buffer=40,
        ids=True,
        seed=0,
    )
    drawn = read_ids(dataset).reshape(-1, 4, 3)[:, 0].ravel()
    ids, counts = np.unique(drawn, return_counts=True)
    assert np.max(counts) > 1
    for group in range(3):
        assert np.ptp(counts[y[ids] == group]) <= 1


def test_validation_pool_is_fixed_and_disjoint():
    dataset = stratified_batches(
        make_stream(),
        **SIZES,
        num_validation_shards=2,
        validation_ratio=0.2,
        shuffle_buffer=40,
        ids=True,
        seed=0,
    )
    held_out, trained = set(), set()
    for _ in range(4):
        shards = read_ids(dataset).reshape(-1, 4, 3)
        trained_now = shards[:, 2:].ravel()
        assert len(np.unique(trained_now)) == trained_now.size
        held_out |= set(shards[:, :2].ravel())
        trained |= set(trained_now)
    assert not held_out & trained
    sizes = np.bincount(make_data()[1])
    assert len(held_out) == np.rint(0.2 * sizes).sum()
    for _, labels, *_ in dataset:
        assert_stratified(labels)
    # All groups were counted, so that the number of batches is known.
    assert dataset.cardinality() == len(list(dataset))


def test_one_hot_and_column_labels():
    x, y = make_data()
    arguments = {**SIZES, "ids": True, "seed": 0}
    expected = read_ids(stratified_batches(make_stream(x, y), **arguments))
    for labels in (np.eye(3, dtype="float32")[y], y[:, None]):
        dataset = stratified_batches(make_stream(x, labels), **arguments)
        np.testing.assert_array_equal(read_ids(dataset), expected)


def test_dict_labels_with_a_function():
    x, y = make_data()
    dataset = stratified_batches(
        make_stream({"in": x}, {"class": y, "score": x}),
        **SIZES,
        stratify_by=lambda x, y: y["class"],
    )
    for batch_x, batch_y in dataset:
        assert_stratified(batch_y["class"])
        np.testing.assert_array_equal(batch_x["in"], batch_y["score"])


def test_stratify_by_none_mixes_the_labels():
    dataset = stratified_batches(make_stream(), **SIZES, stratify_by=None)
    shards = np.sort([np.reshape(y, (4, 3)) for _, y in dataset], axis=2)
    assert np.any(shards != shards[:, :1])
    assert len(shards) == 150 // 4 // 3


def test_own_ids_and_weights_are_kept():
    x, y = make_data()
    own = make_stream(x, y, 2 * x, x.astype("int64") + 7)
    assert len(stratified_batches(own, **SIZES).element_spec) == 4
    dataset = stratified_batches(own, **SIZES, ids=True)
    for batch_x, _, weight, batch_ids in dataset:
        np.testing.assert_array_equal(weight, 2 * batch_x)
        np.testing.assert_array_equal(batch_ids, batch_x + 7)


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_unknown_inner_shape(ratio):
    stream = make_stream().map(lambda x, y: (tf.fill([2, 3], x), y))
    loose = tf.data.Dataset.from_generator(
        lambda: iter(stream),
        output_signature=(
            tf.TensorSpec([None, 3], "float32"),
            tf.TensorSpec([], "int64"),
        ),
    )
    dataset = stratified_batches(loose, **SIZES, validation_ratio=ratio)
    size = 2 if ratio else None  # Validation examples are in memory.
    assert dataset.element_spec[0].shape.as_list() == [12, size, 3]
    for batch_x, _ in dataset:
        assert batch_x.shape == (12, 2, 3)


def stream_of_lengths(lengths):
    labels = np.arange(len(lengths)) % 2
    return tf.data.Dataset.from_generator(
        lambda: ((np.ones(n), y) for n, y in zip(lengths, labels)),
        output_signature=(
            tf.TensorSpec([None], "float32"),
            tf.TensorSpec([], "int64"),
        ),
    )


def test_varied_lengths_error_before_the_first_step():
    with pytest.raises(ValueError, match="varied shapes.*padded_batch"):
        stratified_batches(stream_of_lengths([1, 2, 3] * 20), **SIZES)
    dataset = stratified_batches(stream_of_lengths([2] * 40 + [3]), **SIZES)
    with pytest.raises(tf.errors.InvalidArgumentError, match="padded_batch"):
        next(iter(dataset))
    padded = stream_of_lengths([1, 2, 3] * 20).padded_batch(7, ([4], []))
    batch_x, labels = next(iter(stratified_batches(padded.unbatch(), **SIZES)))
    assert batch_x.shape == (12, 4)
    assert_stratified(labels)


def test_errors_of_the_dataset_itself_are_left_alone():
    stream = stream_of_lengths([2] * 60).map(
        lambda x, y: (tf.debugging.check_numerics(x / 0, "mine"), y)
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"):
        stratified_batches(stream, **SIZES)


def test_sparse_and_ragged_streams_error():
    labels = np.arange(60) % 2
    for x, message in (
        (tf.sparse.from_dense(np.eye(60)), "to_dense"),
        (tf.ragged.constant([[1], [1, 2]] * 30), "to_tensor"),
    ):
        with pytest.raises(ValueError, match=f"dense tensors.*{message}"):
            stratified_batches(make_stream(x, labels), **SIZES)


def test_an_infinite_stream_goes_on():
    dataset = stratified_batches(
        make_stream().repeat(), **SIZES, shuffle_buffer=40
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for _, labels in dataset.take(40):
        assert_stratified(labels)


def test_fit_takes_the_batches():
    x, y = make_data()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    dataset = stratified_batches(
        make_stream(x[:, None] / 150, y), **SIZES, shuffle=False
    ).repeat()
    history = model.fit(
        dataset, epochs=2, steps_per_epoch=9, shuffle=False, verbose=0
    ).history
    # Nothing is learned, and the second epoch goes on where the first ended.
    losses = [loss(y_1, model(x_1)) for x_1, y_1 in dataset.take(18)]
    expected = np.mean(np.reshape(losses, (2, 9)), axis=1)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    assert int(model.optimizer.iterations) == 18


def rare_stream():
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    return make_stream(np.arange(10), labels)


def test_rare_group_is_repeated_and_warned_of_once():
    # In chunks of four examples no chunk shows that a group is rare.
    dataset = stratified_batches(
        rare_stream(), 4, 1, ids=True, shuffle_buffer=1, seed=0
    )
    with pytest.warns(UserWarning, match=r"1 \(2\)") as record:
        for _ in range(3):
            uses = np.bincount(read_ids(dataset).ravel(), minlength=10)
            assert uses[1] == uses[4] == 2
            assert sum(uses) == 12 and sum(uses == 1) == 8
    assert len([w for w in record if "1 (2)" in str(w.message)]) == 1


def test_rare_group_is_dropped():
    dataset = stratified_batches(
        rare_stream(), 4, 1, ids=True, rare="drop", seed=0
    )
    ids = read_ids(dataset)
    assert ids.shape == (2, 4) and not {1, 4} & set(ids.ravel())


def test_rare_group_with_validation_is_known_at_once():
    arguments = {"num_shards": 4, "shard_size": 1, "validation_ratio": 0.2}
    with pytest.warns(UserWarning, match=r"1 \(1\)"):
        dataset = stratified_batches(rare_stream(), **arguments, ids=True)
    assert {1, 4} <= set(read_ids(dataset).ravel())
    dropped = stratified_batches(
        rare_stream(), **arguments, ids=True, rare="drop"
    )
    assert not {1, 4} & set(read_ids(dropped).ravel())


def test_rare_group_error():
    dataset = stratified_batches(rare_stream(), 4, 1, rare="error")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"1 \(2\)"):
        list(dataset)
    with pytest.raises(ValueError, match=r"1 \(1\)"):
        stratified_batches(
            rare_stream(), 4, 1, rare="error", validation_ratio=0.2
        )


def test_too_small_stream_error():
    dataset = stratified_batches(make_stream(), 4, 100)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Lower `shard_"):
        next(iter(dataset))
    with pytest.raises(ValueError, match="Lower `shard_size`"):
        stratified_batches(make_stream(), 4, 100, validation_ratio=0.1)


def test_soft_label_later_in_the_stream_error():
    labels = np.eye(3, dtype="float32")[make_data()[1]]
    labels[70] = 1 / 3
    dataset = stratified_batches(make_stream(labels, labels), **SIZES)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`stratify_by`"):
        list(dataset)


@pytest.mark.parametrize(
    "stream, arguments, message",
    [
        (make_stream().batch(8), {}, "`.unbatch()`"),
        (make_stream().batch(8, drop_remainder=True), {}, "`.unbatch()`"),
        (make_stream().batch(8), {"stratify_by": None}, "`.unbatch()`"),
        (
            make_stream().batch(8, drop_remainder=True),
            {"stratify_by": lambda x, y: y},
            "`.unbatch()`",
        ),
        (make_stream(*make_data()[:1]), {}, "Expected a dataset of"),
        (make_stream({"x": make_data()[0]}), {}, "Expected a dataset of"),
        (make_stream().map(lambda *e: (*e[:2], None)), {}, "without `None`"),
        (make_stream(np.zeros(9), np.random.rand(9)), {}, "`stratify_by`"),
        (make_stream(np.zeros(9), np.ones((9, 3))), {}, "`stratify_by`"),
        (
            make_stream(np.zeros(9), {"a": np.zeros(9, int)}),
            {},
            "`stratify_by`",
        ),
        (make_stream(), {"stratify_by": np.zeros(150, int)}, "arrays too"),
        (make_stream(), {"steps_per_epoch": 3}, "`steps_per_epoch`"),
        (make_stream().repeat(), {"validation_ratio": 0.1}, "without end"),
        (make_stream(), {"shuffle_buffer": 0}, "`shuffle_buffer`"),
    ],
)
def test_stream_error(stream, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataset = stratified_batches(stream, **arguments)
        next(iter(dataset))
