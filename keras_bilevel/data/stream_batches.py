"""Stratified super-batches of a `tf.data.Dataset`.

From start to end, an element is `(position, example)`: the position of an
example in the stream, and what the stream gave.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel.data.epochs import once_per_epoch
from keras_bilevel.data.groups import example_grouper
from keras_bilevel.data.rare_windows import RareWindows
from keras_bilevel.data.seeds import EPOCH
from keras_bilevel.data.seeds import generator
from keras_bilevel.data.stream_examples import check_finite
from keras_bilevel.data.stream_examples import check_single_examples
from keras_bilevel.data.stream_examples import with_ids
from keras_bilevel.data.stream_split import StreamSplit


def stream_batches(
    dataset,
    layout,
    *,
    validation_ratio,
    stratify_by,
    rare,
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
        shuffle_buffer: Integer, examples in the shuffle buffers, `0` to keep
            the order of the stream.
        ids: Boolean, whether to add sample weights and positions.
        seed: Integer.

    Returns:
        A tuple of the `tf.data.Dataset` of super-batches and its
        `EpochCounter`.
    """
    check_single_examples(dataset)
    group_of = example_grouper(dataset, stratify_by)
    examples = dataset.enumerate()
    split = None
    if layout.separate_validation:
        check_finite(dataset)
        groups = dataset.map(group_of)
        split = StreamSplit(
            examples, groups, layout, validation_ratio, rare, seed
        )
        examples = split.training(examples)
    # The split has counted the groups, reported the rare ones and dropped
    # those that were to be dropped.
    windows = RareWindows(
        layout.training_members,
        "repeat" if split else rare,
        silent=split is not None,
    )

    def one_pass(seeds, validation_order):
        shuffled = examples
        if shuffle_buffer:
            shuffled = _shuffle(examples, shuffle_buffer, seeds[0])
        tuples = windows.cut(shuffled, group_of)
        if split:
            tuples = split.join(tuples, validation_order)
        tuples = tuples.map(lambda group, *members: members)
        if shuffle_buffer:
            waiting = -(-shuffle_buffer // layout.tuple_size)
            tuples = _shuffle(tuples, waiting, seeds[1])
        return _whole_batches(tuples, layout)

    def begin(epoch):
        rng = generator(seed, EPOCH, epoch) if shuffle_buffer else None
        seeds = rng.integers(1, 2**31, size=2) if rng else np.zeros(2, "int64")
        order = split.order(rng) if split else np.zeros(0, "int64")
        return seeds, order

    def finish(positions, batch):
        positions, batch = _shard_major((positions, batch), layout)
        return with_ids(positions, batch) if ids else batch

    signature = (tf.TensorSpec([2], "int64"), tf.TensorSpec([None], "int64"))
    epoch, counter = once_per_epoch(begin, signature)
    batches = epoch.flat_map(one_pass).map(
        finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    steps = split.steps if split else None
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        steps = tf.data.INFINITE_CARDINALITY
    if steps is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return batches.prefetch(tf.data.AUTOTUNE), counter


def _shuffle(dataset, buffer_size, seed):
    # tf.data mixes the global seed into every shuffle. This sets the seed of
    # the one graph that it is called in, the function that builds a pass, so
    # that the order depends on nothing but our own seed.
    tf.random.set_seed(1)
    return dataset.shuffle(
        buffer_size, seed=seed, reshuffle_each_iteration=False
    )


def _whole_batches(tuples, layout):
    """Batches of `shard_size` tuples; an epoch without any is an error."""
    message = (
        "Invalid value for argument `data`. Expected enough examples for one "
        f"super-batch: {layout.shard_size} tuples of {layout.training_members} "
        "training examples of one group. Lower `shard_size` or `num_shards`. "
        "Received a dataset that ended before. Number of tuples:"
    )

    def mark(any_whole, batch):
        found = tf.shape(keras.tree.flatten(batch)[0])[0]
        whole = found == layout.shard_size
        tf.debugging.Assert(any_whole | whole, [message, found])
        return any_whole | whole, (whole, *batch)

    batches = tuples.batch(layout.shard_size).scan(tf.constant(False), mark)
    whole = batches.filter(lambda whole, *batch: whole)
    return whole.map(lambda whole, *batch: batch)


def _shard_major(batch, layout):
    """From leaves `(shard_size, tuple_size, ...)` to `(batch_size, ...)`."""

    def lay_out(leaf):
        members_first = [1, 0, *range(2, leaf.shape.rank)]
        inner = tf.shape(leaf)[2:]
        flat = tf.reshape(
            tf.transpose(leaf, members_first),
            tf.concat([[layout.batch_size], inner], axis=0),
        )
        return tf.ensure_shape(flat, [layout.batch_size, *leaf.shape[2:]])

    return keras.tree.map_structure(lay_out, batch)
