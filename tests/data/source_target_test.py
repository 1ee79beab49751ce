import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_bilevel.data import epoch_counters
from keras_bilevel.data import source_target_batches
from keras_bilevel.data.draws import ArraySource
from keras_bilevel.data.draws import TargetDraws

few = settings(max_examples=25, deadline=None)


def make_source(n=53):
    return np.arange(n, dtype="float32"), np.arange(n) % 3


def make_target(n=7):
    return -np.arange(n, dtype="float32"), np.arange(n) % 3


def as_stream(data):
    return tf.data.Dataset.from_tensor_slices(data)


def unknown(dataset):
    """The same dataset, of which tf.data does not know the length."""
    return dataset.filter(lambda *_: True)


def make(source=None, target=None, sizes=(10, 4), seed=0, **arguments):
    source = make_source() if source is None else source
    target = make_target() if target is None else target
    return source_target_batches(source, target, *sizes, seed=seed, **arguments)


def read(dataset):
    """The source ids and the target x of an epoch, batch after batch."""
    batches = list(dataset)
    ids = [source[-1].numpy().tolist() for source, _ in batches]
    return ids, [target[0].numpy().tolist() for _, target in batches]


def flat(batches):
    return [value for batch in batches for value in batch]


SOURCES = {
    "arrays": make_source,
    "stream": lambda: as_stream(make_source()),
    "unknown_stream": lambda: unknown(as_stream(make_source())),
}
TARGETS = {
    "arrays": make_target,
    "stream": lambda: as_stream(make_target()),
    "unknown_stream": lambda: unknown(as_stream(make_target())),
}
any_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
any_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@any_source
@any_target
def test_an_epoch_sees_each_source_example_once(source, target):
    dataset = make(source(), target())
    (x_spec, y_spec, id_spec), (x_t_spec, _) = dataset.element_spec
    assert x_spec.shape == y_spec.shape == id_spec.shape == (10,)
    assert id_spec.dtype == tf.int64 and x_t_spec.shape == (4,)
    left_over = []
    for _ in range(3):
        seen = []
        for (x, y, ids), (x_t, y_t) in dataset:
            np.testing.assert_array_equal(x, make_source()[0][ids])
            np.testing.assert_array_equal(y, make_source()[1][ids])
            np.testing.assert_array_equal(y_t, -x_t % 3)
            seen.extend(ids.numpy())
        assert len(seen) == len(set(seen)) == 50
        left_over.append(frozenset(range(53)) - set(seen))
    assert len(set(left_over)) > 1


@pytest.mark.parametrize(
    "name, expected",
    [("arrays", 5), ("stream", 5), ("unknown_stream", -2)],
)
def test_cardinality(name, expected):
    assert make(SOURCES[name]()).cardinality() == expected


def test_an_infinite_source_goes_on():
    dataset = make(as_stream(make_source(20)).repeat(), sizes=(10, 32))
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    # More steps than are planned at a time.
    batches = list(dataset.take(1030))
    drawn = np.ravel([x_t for _, (x_t, _) in batches])
    counts = np.bincount(-drawn.astype(int))
    assert len(batches) == 1030 and np.ptp(counts) <= 1
    assert batches[-1][0][2].numpy().max() > 10_000  # Positions, not rows.


@few
@given(
    num_examples=st.integers(1, 60),
    size=st.integers(1, 20),
    steps=st.none() | st.integers(1, 30),
    drop_remainder=st.booleans(),
    shuffle=st.booleans(),
    epoch=st.integers(0, 1000),
)
def test_passes_over_the_source(
    num_examples, size, steps, drop_remainder, shuffle, epoch
):
    size = min(size, num_examples)
    arguments = {
        "drop_remainder": drop_remainder,
        "shuffle": shuffle,
        "steps_per_epoch": steps,
        "seed": 0,
    }
    plan = ArraySource(None, num_examples, size, **arguments)
    batches = planned(plan, epoch)
    if steps is None:
        rows = np.concatenate(batches)
        assert len(set(rows)) == len(rows)
        left_over = num_examples % size if drop_remainder else 0
        assert len(rows) == num_examples - left_over
        assert {len(batch) for batch in batches[:-1]} <= {size}
    else:
        assert len(batches) == plan.cardinality == steps
    # An epoch goes on where the one before ended.
    twice = {**arguments, "steps_per_epoch": 2 * plan.cardinality}
    longer = planned(ArraySource(None, num_examples, size, **twice), epoch)
    expected = planned(plan, 2 * epoch) + planned(plan, 2 * epoch + 1)
    assert list(map(list, longer)) == list(map(list, expected))


def planned(source, epoch):
    return [rows[rows >= 0] for rows in source.plan(np.int64(epoch))]


@few
@given(
    num_examples=st.integers(1, 3000),
    size=st.integers(1, 40),
    steps=st.integers(1, 20),
    shuffle=st.booleans(),
    epochs=st.integers(1, 5),
)
def test_target_draws_are_balanced_over_any_epochs(
    num_examples, size, steps, shuffle, epochs
):
    draws = TargetDraws(
        None, num_examples, size, steps=steps, shuffle=shuffle, seed=0
    )
    drawn = np.concatenate([draws.plan(e).ravel() for e in range(epochs)])
    assert drawn.size == epochs * steps * size
    counts = np.bincount(drawn, minlength=num_examples)
    assert np.ptp(counts) <= 1
    if not shuffle:
        expected = np.arange(drawn.size) % num_examples
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("name", ["arrays", "stream"])
@any_target
def test_the_target_goes_on_where_the_epoch_before_ended(name, target):
    dataset = make(SOURCES[name](), target())
    drawn = flat(flat(read(dataset)[1]) for _ in range(5))
    assert len(drawn) == 100
    passes = np.reshape(drawn[:98], (14, 7))
    np.testing.assert_array_equal(
        np.sort(passes), np.tile(-np.arange(7.0)[::-1], (14, 1))
    )
    assert len(set(map(tuple, passes))) > 10


def test_a_source_of_unknown_length_begins_new_passes():
    dataset = make(SOURCES["unknown_stream"]())
    for _ in range(3):
        counts = np.bincount(-np.array(flat(read(dataset)[1]), int))
        assert counts.min() == 2 and counts.max() == 3


def test_a_target_smaller_than_its_batch():
    dataset = make(target=make_target(3), sizes=(10, 8))
    for _, (x_t, _) in dataset:
        counts = np.bincount(-x_t.numpy().astype(int))
        assert counts.sum() == 8 and np.ptp(counts) <= 2


@any_source
def test_order_is_a_function_of_seed_and_epoch_alone(source):
    tf.random.set_seed(0)
    dataset = make(source())
    epochs = [read(dataset) for _ in range(3)]
    for side in (0, 1):
        assert epochs[0][side] != epochs[1][side] != epochs[2][side]
    (counter,) = epoch_counters(dataset)
    counter.set(1)
    assert read(dataset) == epochs[1]
    tf.random.set_seed(2)
    resumed = make(source())
    epoch_counters(resumed)[0].set(2)
    assert read(resumed) == epochs[2]
    other = read(make(source(), seed=1))
    assert other[0] != epochs[0][0] and other[1] != epochs[0][1]


def test_reading_leaves_the_global_seed_alone():
    tf.random.set_seed(5)
    expected = tf.random.uniform([3])
    tf.random.set_seed(5)
    list(make(SOURCES["stream"](), TARGETS["stream"]()))
    np.testing.assert_array_equal(tf.random.uniform([3]), expected)


def test_counters_are_found_behind_further_stages():
    dataset = make()
    (counter,) = epoch_counters(dataset)
    mapped = dataset.map(lambda source, target: (source, target)).prefetch(2)
    assert epoch_counters(mapped) == [counter]
    expected = read(dataset)
    epoch_counters(mapped)[0].set(0)
    assert read(mapped) == expected


def test_repeat_goes_through_the_epochs():
    dataset = make()
    first, second = read(dataset), read(dataset)
    repeated = read(make().repeat(2))
    assert repeated == (first[0] + second[0], first[1] + second[1])


def test_set_random_seed_fixes_an_open_seed():
    keras.utils.set_random_seed(3)
    expected = read(make(seed=None))
    assert read(make(seed=None)) != expected
    keras.utils.set_random_seed(3)
    assert read(make(seed=None)) == expected


@any_source
@any_target
def test_without_shuffle_the_order_is_that_of_the_data(source, target):
    dataset = make(source(), target(), shuffle=False)
    for _ in range(2):
        assert flat(read(dataset)[0]) == list(range(50))
    epoch_counters(dataset)[0].set(0)
    expected = -np.arange(20) % -7
    assert flat(read(dataset)[1]) == expected.tolist()


@any_source
def test_the_last_batch_is_shorter_without_drop_remainder(source):
    dataset = make(source(), drop_remainder=False)
    (x_spec, *_), (x_t_spec, _) = dataset.element_spec
    assert x_spec.shape[0] is None and x_t_spec.shape == (4,)
    for _ in range(2):
        ids, drawn = read(dataset)
        assert [len(batch) for batch in ids] == [10] * 5 + [3]
        assert [len(batch) for batch in drawn] == [4] * 6
        assert sorted(flat(ids)) == list(range(53))


@any_source
def test_a_source_below_its_batch_without_drop_remainder(source):
    dataset = make(source(), sizes=(100, 4), drop_remainder=False)
    ids, _ = read(dataset)
    assert len(ids) == 1 and sorted(ids[0]) == list(range(53))


def test_steps_per_epoch():
    dataset = make(steps_per_epoch=3)
    assert dataset.cardinality() == 3
    short = [read(dataset) for _ in range(5)]
    plain = make()
    long = [read(plain) for _ in range(3)]
    for side in (0, 1):
        expected = sum((epoch[side] for epoch in long), [])
        assert sum((epoch[side] for epoch in short), []) == expected


def nested(data):
    x, y = data
    return {"in": (x, 2 * x)}, {"class": y, "score": x}


@pytest.mark.parametrize("convert", [tuple, as_stream])
def test_nested_structures(convert):
    source, target = nested(make_source()), nested(make_target())
    dataset = make(convert(source), convert(target))
    for (x, y, ids), (x_t, y_t) in dataset:
        np.testing.assert_array_equal(x["in"][1], 2.0 * ids.numpy())
        np.testing.assert_array_equal(y["score"], x["in"][0])
        np.testing.assert_array_equal(y["class"], ids.numpy() % 3)
        np.testing.assert_array_equal(y_t["score"], x_t["in"][0])


@pytest.mark.parametrize("convert", [tuple, as_stream])
def test_each_side_has_its_own_weights(convert):
    source, target = make_source(), make_target()
    weighted_source = convert((*source, 5 * source[0]))
    weighted_target = convert((*target, 5 * target[0]))
    for (x, _, w, ids), (_, _) in make(weighted_source, convert(target)):
        np.testing.assert_array_equal(w, 5 * x)
        np.testing.assert_array_equal(x, source[0][ids])
    for (_, _, ids), (x_t, _, w_t) in make(convert(source), weighted_target):
        np.testing.assert_array_equal(w_t, 5 * x_t)
        assert ids.dtype == tf.int64


def test_own_ids_are_kept():
    x, y = make_source()
    own = as_stream((x, y, 2 * x, (x + 100).astype("int32")))
    for (batch_x, _, w, ids), _ in make(own):
        assert ids.dtype == tf.int64
        np.testing.assert_array_equal(ids, batch_x + 100)
        np.testing.assert_array_equal(w, 2 * batch_x)


def test_one_hot_labels_are_no_batch():
    features = np.random.rand(30, 5).astype("float32")
    one_hot = np.eye(5, dtype="int64")[np.arange(30) % 5]
    stream = as_stream((features, one_hot))
    ((x, *_), _) = next(iter(make(stream, stream)))
    assert x.shape == (10, 5)


def test_unknown_inner_shape():
    def ragged(n):
        return tf.data.Dataset.from_generator(
            lambda: ((np.full([2, 3], i), i) for i in range(n)),
            output_signature=(
                tf.TensorSpec([None, 3], "float32"),
                tf.TensorSpec([], "int64"),
            ),
        )

    dataset = make(ragged(20), ragged(5))
    (x, y, ids), (x_t, y_t) = next(iter(dataset))
    assert x.shape == (10, 2, 3) and x_t.shape == (4, 2, 3)
    np.testing.assert_array_equal(x[:, 0, 0], ids)
    np.testing.assert_array_equal(x_t[:, 0, 0], y_t)


def test_data_are_not_modified():
    source, target = make_source(), make_target()
    list(make(source, target))
    for data, expected in ((source, make_source()), (target, make_target())):
        for array, before in zip(data, expected):
            np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
def test_sizes_error(size):
    with pytest.raises(ValueError, match=f"`source_size`.*size={size}"):
        make(sizes=(size, 4))
    with pytest.raises(ValueError, match=f"`target_size`.*size={size}"):
        make(sizes=(10, size))


@any_source
def test_no_full_batch_error(source):
    with pytest.raises(
        ValueError, match="`source_size`.*the 53 source.*source_size=54"
    ):
        make(source(), sizes=(54, 4))


EMPTY = (np.zeros(0), np.zeros(0, int))


@pytest.mark.parametrize(
    "empty", [EMPTY, as_stream(EMPTY), unknown(as_stream(EMPTY))]
)
def test_empty_error(empty):
    with pytest.raises(ValueError, match="`target`.*at least one example"):
        make(target=empty)
    with pytest.raises(ValueError, match="`source`.*at least one example"):
        make(empty, drop_remainder=False)


def test_infinite_target_error():
    with pytest.raises(ValueError, match="`target`.*infinite dataset"):
        make(target=as_stream(make_target()).repeat())


@pytest.mark.parametrize(
    "data",
    [
        (np.zeros(60), np.zeros(59, int)),
        ({"a": np.zeros(60), "b": np.zeros(59)}, np.zeros(60, int)),
        (np.zeros(60), np.zeros(60, int), np.ones(59)),
        (np.zeros(60), [0] * 59),
    ],
)
def test_lengths_error(data):
    for name in ("source", "target"):
        with pytest.raises(ValueError, match=f"`{name}`.*same length.*60"):
            make(**{name: data})


@pytest.mark.parametrize(
    "data", [np.zeros(60), (np.zeros(60),), (np.zeros(60),) * 4, [1, 2], {}]
)
def test_wrong_structure_of_arrays_error(data):
    for name in ("source", "target"):
        with pytest.raises(ValueError, match=f"`{name}`. Expected a tuple"):
            make(**{name: data})


@pytest.mark.parametrize(
    "stream",
    [
        as_stream(make_source()[:1]),
        as_stream(make_source()[0]),
        as_stream({"x": make_source()[0]}),
        as_stream(make_source() * 3),
    ],
)
def test_wrong_structure_of_a_stream_error(stream):
    for name in ("source", "target"):
        with pytest.raises(ValueError, match=f"`{name}`. Expected a dataset"):
            make(**{name: stream})


def test_ids_error():
    x, y = make_source()
    own = as_stream((x, y, x, y))
    with pytest.raises(ValueError, match="`target`. Expected a dataset"):
        make(target=own)
    with pytest.raises(ValueError, match="`source`. Expected one integer id"):
        make(as_stream((x, y, x, x)))
    with pytest.raises(ValueError, match="`source`. Expected one integer id"):
        make(as_stream((x, y, x, y[:, None])))


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("width", [None, 5])
def test_batched_stream_error(drop_remainder, width):
    x, y = make_source()
    x = x if width is None else np.tile(x[:, None], width)
    stream = as_stream((x, y)).batch(8, drop_remainder=drop_remainder)
    for name in ("source", "target"):
        message = re.escape("`.unbatch()`")
        with pytest.raises(ValueError, match=f"`{name}`.*{message}"):
            make(**{name: stream})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps_per_epoch": 0}, "`steps_per_epoch`.*steps_per_epoch=0"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"seed": 1.5}, "`seed`"),
    ],
)
def test_argument_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps_per_epoch": 3}, "`steps_per_epoch`.*arrays"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer`"),
    ],
)
def test_stream_argument_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(SOURCES["stream"](), **arguments)
