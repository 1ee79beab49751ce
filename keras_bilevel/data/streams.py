"""Stratified super-batches of a stream."""

import functools

import keras
import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.checks import wrong
from keras_bilevel.data.batches import spec_of
from keras_bilevel.data.labels import grouped_chunks
from keras_bilevel.data.stream_plan import StreamPlan
from keras_bilevel.data.stream_plan import StreamSplit

_VARIED = (
    "Expected examples of one shape, of which batches can be made. Received: "
    "examples of varied shapes. Pad them to one length, for instance by "
    "`dataset.padded_batch(1, padded_shapes).unbatch()`."
)


def check_dense(dataset):
    """Raises a `ValueError` for a stream of sparse or ragged tensors."""
    mends = {
        tf.SparseTensorSpec: "`tf.sparse.to_dense` in a `map`",
        tf.RaggedTensorSpec: "`.to_tensor()` of all of them, or padding",
    }
    for spec in keras.tree.flatten(dataset.element_spec):
        if type(spec) in mends:
            raise ValueError(
                f"Expected dense tensors. Received: {spec}. Make them dense, "
                f"by {mends[type(spec)]}."
            )


def same_shapes(dataset, most):
    """Makes a dataset raise as soon as two examples differ in shape.

    Args:
        dataset: A `tf.data.Dataset` of single examples.
        most: Integer, how many examples to read immediately if their shape is
            unknown, to raise early.

    Returns:
        A `tf.data.Dataset` of the same examples.
    """
    specs = keras.tree.flatten(dataset.element_spec)
    places = [
        place
        for place, spec in enumerate(specs)
        if not spec.shape.is_fully_defined()
    ]
    if not places:
        return dataset

    def check(first, example):
        leaves = keras.tree.flatten(example)
        shapes = [tf.shape(leaves[place]) for place in places]
        shapes = tf.concat(shapes, axis=0)
        first = tf.cond(tf.size(first) == 0, lambda: shapes, lambda: first)
        with tf.control_dependencies(
            [tf.debugging.assert_equal(first, shapes, _VARIED)]
        ):
            example = keras.tree.map_structure(tf.identity, example)
        return tf.ensure_shape(first, [None]), example

    checked = dataset.scan(tf.zeros([0], "int32"), check)
    try:
        for _ in checked.take(most):
            pass
    except tf.errors.InvalidArgumentError as error:
        if _VARIED in str(error):
            raise ValueError(_VARIED) from None
        raise
    return checked


def check_single_examples(dataset):
    """Raises a `ValueError` unless elements are single `(x, y, ...)`."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3, 4):
        raise wrong(
            "argument `data`",
            "a dataset of `(x, y)`, `(x, y, sample_weight)` or `(x, y, "
            "sample_weight, ids)`",
            f"element_spec={spec}",
        )
    if None in keras.tree.flatten(spec_of(dataset)):
        raise wrong(
            "argument `data`",
            "examples without `None`",
            f"element_spec={spec}",
            "Leave it out, as in `data.map(lambda x, y, w: (x, y))`, or put "
            "a sample weight of 1.0 in its place.",
        )
    check_dense(dataset)
    shapes = [leaf.shape for leaf in keras.tree.flatten(spec)]
    if all(shape.rank and shape[0] is None for shape in shapes):
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of single "
            "examples. Received: batches, all of unknown length. Apply "
            "`.unbatch()` first."
        )


def check_finite(dataset):
    """Raises a `ValueError` for a stream that is known to be infinite."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise wrong(
            "argument `validation_ratio`",
            "0 for a dataset without end, which cannot be split",
            "an infinite dataset",
            "Apply `.repeat()` to the super-batches instead.",
        )


def count_positions(dataset):
    """Returns how many positions a stream has, `None` where no one knows.

    Args:
        dataset: A `tf.data.Dataset` of single examples. If it has ids of its
            own, positions say nothing about them.
    """
    spec = dataset.element_spec
    has_ids = isinstance(spec, tuple) and len(spec) == 4
    count = int(dataset.cardinality())
    return None if has_ids or count < 0 else count


def with_ids(positions, batch):
    """Completes super-batches to `(x, y, sample_weight, ids)`.

    Args:
        positions: int64 tensor of shape `(steps, batch_size)`, where the
            examples are in the stream. They are the ids unless the batches
            have their own.
        batch: Tuple `(x, y)`, `(x, y, sample_weight)` or
            `(x, y, sample_weight, ids)`, leaves of shape
            `(steps, batch_size, ...)`.
    """
    if len(batch) == 4:
        return batch
    ones = tf.ones_like(positions, keras.config.floatx())
    x, y, sample_weight = (*batch, ones)[:3]
    return x, y, sample_weight, positions


def filtered(dataset, mask):
    """Returns the examples of a dataset that a mask keeps.

    Args:
        dataset: A `tf.data.Dataset` of single examples. They are identified by
            their ids if elements are `(x, y, sample_weight, ids)`, and
            otherwise by their position.
        mask: Boolean array of shape `(n,)`.
    """
    spec = dataset.element_spec
    if isinstance(spec, tuple) and len(spec) == 4:
        return _kept_ids(dataset, mask)
    return _kept_positions(dataset, mask)


def _kept_ids(dataset, mask):
    shape = dataset.element_spec[3].shape
    if shape.rank:
        raise wrong(
            "argument `data`",
            "a dataset of single examples",
            f"ids of shape {shape}",
            "Clean it before `batch`, or call `unbatch` first.",
        )
    return dataset.filter(lambda x, y, sample_weight, i: tf.gather(mask, i))


def _kept_positions(dataset, mask):
    size = dataset.cardinality().numpy()
    if size not in (len(mask), tf.data.UNKNOWN_CARDINALITY):
        raise wrong(
            "argument `data`",
            f"a dataset of {len(mask)} single examples, one for each score",
            f"{size} elements",
            "Clean it before `batch` and `repeat`.",
        )
    kept = dataset.enumerate().filter(lambda i, element: tf.gather(mask, i))
    kept = kept.map(lambda i, element: element)
    # Tells `fit` the number of steps, and raises if an unknown size was wrong.
    return kept.apply(tf.data.experimental.assert_cardinality(mask.sum()))


_map = keras.tree.map_structure


def stream_batches(
    dataset,
    layout,
    *,
    validation_ratio,
    stratify_by,
    rare,
    shuffle,
    shuffle_buffer,
    ids,
    seed,
):
    """Cuts a stream into tuples of one group, and makes super-batches of them.

    Args:
        dataset: A `tf.data.Dataset` of single examples.
        layout: A `Layout`.
        validation_ratio: Float, see `stratified_batches`.
        stratify_by: `"label"`, a function or `None`.
        rare: String, see `stratified_batches`.
        shuffle: Boolean.
        shuffle_buffer: Integer, the examples of a chunk.
        ids: Boolean, whether to add sample weights and positions.
        seed: Integer.

    Returns:
        A tuple of the `tf.data.Dataset` of super-batches and its
        `EpochCounter`.
    """
    check_single_examples(dataset)
    dataset = same_shapes(dataset, layout.batch_size)
    # A chunk smaller than a super-batch would only go into the pool.
    size = max(shuffle_buffer, layout.batch_size)
    chunks = grouped_chunks(dataset, stratify_by, size)
    split = None
    if layout.separate_validation:
        check_finite(dataset)
        split = StreamSplit(
            chunks, layout, validation_ratio, rare, shuffle, seed
        )
    plan = StreamPlan(layout, rare, shuffle, seed, split)
    batches = _cut(chunks, size, plan, layout, split, ids)
    steps = split.steps if split else None
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        steps = tf.data.INFINITE_CARDINALITY
    if steps is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return batches, plan.counter


def _cut(chunks, size, plan, layout, split, ids):
    """The super-batches of each chunk, and of the pool of other examples.

    Args:
        chunks: A `tf.data.Dataset` of `(groups, examples)`.
        size: Integer, the examples of a chunk.
        plan: A `StreamPlan`.
        layout: A `Layout`.
        split: A `StreamSplit`, or `None`.
        ids: Boolean, whether to add sample weights and positions.

    Returns:
        A `tf.data.Dataset` of super-batches.
    """

    def step(state, element):
        epoch, names, dealt, carried = state
        number, (groups, examples) = element
        positions = number * size + tf.range(tf.size(groups, "int64"))
        chunk = (groups, positions, examples)
        rows, kept, rows_of_pool, left, *plan_state = tf.numpy_function(
            plan,
            [number, carried[0], groups, positions, epoch, names, dealt],
            ["int64"] * 7,
        )
        for part in (rows, rows_of_pool):
            part.set_shape([None, layout.batch_size])
        for part in (kept, left):
            part.set_shape([None])
        for after, before in zip(plan_state, state):
            after.set_shape(before.shape)
        pool = _map(_join, carried, _gather(chunk, kept))
        todo = (chunk[1:], rows), (pool[1:], rows_of_pool)
        return (*plan_state, _gather(pool, left)), todo

    def gather(examples, rows):
        if split:
            found = _gather_both(split.examples, examples, rows, layout)
        else:
            found = _gather(examples, rows)
        return with_ids(*found) if ids else found[1]

    def batches(of_chunk, of_pool):
        first, last = (
            # All batches of a chunk at once would be another copy of it.
            tf.data.Dataset.from_tensor_slices(rows).map(
                functools.partial(gather, examples)
            )
            for examples, rows in (of_chunk, of_pool)
        )
        return first.concatenate(last)

    none = tf.zeros([0], "int64")
    groups, examples = _map(_empty, chunks.element_spec)
    start = (tf.constant(0, "int64"), none, none, (groups, none, examples))
    # An empty chunk marks the end of the stream.
    end = tf.data.Dataset.from_tensors((groups, examples))
    # The next chunk is read while this one is fed.
    chunks = chunks.concatenate(end).enumerate().prefetch(1)
    return chunks.scan(start, step).flat_map(batches).prefetch(2)


def _empty(spec):
    return tf.zeros([0, *(size or 0 for size in spec.shape[1:])], spec.dtype)


def _join(carried, chunk):
    """Concatenates rows; one side may be empty."""
    joined = tf.concat(_alike([carried, chunk]), axis=0)
    return tf.ensure_shape(joined, [None, *chunk.shape[1:]])


def _alike(both):
    """Gives two tensors, of which one may be empty, the same inner sizes.

    An empty one has 0 in place of a size that was unknown.
    """
    inner = tf.maximum(*(tf.shape(leaf)[1:] for leaf in both))
    return [
        tf.reshape(leaf, tf.concat([tf.shape(leaf)[:1], inner], axis=0))
        for leaf in both
    ]


def _gather(examples, rows):
    return _map(lambda leaf: tf.gather(leaf, rows), examples)


def _gather_both(validation, training, rows, layout):
    """Gathers super-batches; first in `rows` are rows of `validation`."""
    count = layout.validation_members * layout.shard_size
    order = np.arange(layout.batch_size).reshape(layout.tuple_size, -1)
    order = order[layout.member_order].ravel()
    validation = _gather(validation, rows[:count])
    training = _gather(training, rows[count:])

    def merge(*both):
        merged = tf.gather(tf.concat(_alike(both), axis=0), order)
        return tf.ensure_shape(merged, [len(order), *both[0].shape[1:]])

    return _map(merge, validation, training)
