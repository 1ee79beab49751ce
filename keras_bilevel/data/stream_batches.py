"""Stratified super-batches of a `tf.data.Dataset`.

The stream is read in chunks of many super-batches. NumPy says which rows of
a chunk make which super-batch; what is left is carried, until it makes some as
well. Chunks are large, so that each of their examples is copied just once.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel.data.groups import grouped_chunks
from keras_bilevel.data.stream_examples import check_finite
from keras_bilevel.data.stream_examples import check_single_examples
from keras_bilevel.data.stream_examples import same_shapes
from keras_bilevel.data.stream_examples import with_ids
from keras_bilevel.data.stream_plan import StreamPlan
from keras_bilevel.data.stream_split import StreamSplit

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
    """Cuts a stream into tuples of one group and these into super-batches.

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
    # A chunk below a super-batch would only be carried, over and over.
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
    """The super-batches of each chunk, and of what chunks left.

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
        batches = gather(chunk, rows), gather(pool, rows_of_pool)
        return (*plan_state, _gather(pool, left)), batches

    def gather(examples, rows):
        if split:
            found = _gather_both(split.examples, examples[1:], rows, layout)
        else:
            found = _gather(examples[1:], rows)
        return with_ids(*found) if ids else found[1]

    none = tf.zeros([0], "int64")
    groups, examples = _map(_empty, chunks.element_spec)
    start = (tf.constant(0, "int64"), none, none, (groups, none, examples))
    # An empty chunk says that the stream has ended.
    end = tf.data.Dataset.from_tensors((groups, examples))
    # The next chunk is read while this one is fed.
    chunks = chunks.concatenate(end).enumerate().prefetch(1)
    return chunks.scan(start, step).flat_map(_slices).prefetch(2)


def _slices(of_chunk, of_pool):
    slices = tf.data.Dataset.from_tensor_slices
    return slices(of_chunk).concatenate(slices(of_pool))


def _empty(spec):
    return tf.zeros([0, *(size or 0 for size in spec.shape[1:])], spec.dtype)


def _join(carried, chunk):
    """The rows of both, of which one may be empty."""
    # An empty one was made before an unknown inner shape was known.
    inner = tf.maximum(tf.shape(carried)[1:], tf.shape(chunk)[1:])
    both = [
        tf.reshape(leaf, tf.concat([tf.shape(leaf)[:1], inner], axis=0))
        for leaf in (carried, chunk)
    ]
    joined = tf.concat(both, axis=0)
    return tf.ensure_shape(joined, [None, *chunk.shape[1:]])


def _gather(examples, rows):
    return _map(lambda leaf: tf.gather(leaf, rows), examples)


def _gather_both(validation, training, rows, layout):
    """Super-batches of which the first rows are validation rows."""
    count = layout.validation_members * layout.shard_size
    order = np.arange(layout.batch_size).reshape(layout.tuple_size, -1)
    order = order[layout.member_order].ravel()
    validation = _gather(validation, rows[:, :count])
    training = _gather(training, rows[:, count:])

    def merge(*both):
        return tf.gather(tf.concat(both, axis=1), order, axis=1)

    return _map(merge, validation, training)
