"""The part of a stream that only validates."""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel.data.groups import collect
from keras_bilevel.data.pools import Pool
from keras_bilevel.data.pools import check_enough
from keras_bilevel.data.pools import make_pools


class StreamSplit:
    """Keeps the validation examples of a stream in memory.

    The stream is read twice: for the groups alone, so that the split can be
    the one that arrays get, and for the chosen examples.

    Args:
        examples: A `tf.data.Dataset` of `(position, example)`.
        groups: A `tf.data.Dataset` of int64 scalars, the group of each.
        layout: A `Layout`.
        validation_ratio: Float, see `stratified_batches`.
        rare: String, see `stratified_batches`.
        seed: Integer.
    """

    def __init__(self, examples, groups, layout, validation_ratio, rare, seed):
        groups = collect(groups)
        pools = make_pools(groups, layout, validation_ratio, rare, seed)
        check_enough(pools, layout)
        self.steps = int(pools.num_tuples.sum()) // layout.shard_size
        used = pools.num_tuples[pools.training.groups] > 0
        rows = np.arange(len(pools.validation.members))
        self._trains = _mask(len(groups), pools.training.members[used])
        self._names = np.unique(groups)
        self._pool = Pool(rows, pools.validation.groups, len(self._names))
        validates = _mask(len(groups), pools.validation.members)
        self._examples = _read(_select(examples, validates), len(rows))
        self._layout = layout

    def training(self, examples):
        """The part of a dataset of `(position, example)` that trains."""
        return _select(examples, self._trains)

    def order(self, rng):
        """The rows of the validation pool by group, in this epoch's order."""
        return self._pool.by_group(rng)

    def join(self, tuples, order):
        """Adds validation members to tuples of training members.

        Args:
            tuples: A `tf.data.Dataset` of `(group, position, example)`, with
                leaves of shape `(training_members, ...)`.
            order: Integer tensor, what `order()` returned for this epoch.

        Returns:
            The dataset with leaves of shape `(tuple_size, ...)`.
        """
        counts = tf.constant(self._pool.counts)
        starts = tf.cumsum(counts, exclusive=True)
        count = self._layout.validation_members

        def add(used, element):
            name, *training = element
            group = tf.searchsorted(self._names, [name])[0]
            ranks = used[group] + tf.range(count, dtype="int64")
            rows = tf.gather(order, starts[group] + ranks % counts[group])
            used = tf.tensor_scatter_nd_add(used, [[group]], [count])
            return used, (name, *self._merge(rows, tuple(training)))

        return tuples.scan(tf.zeros_like(counts), add)

    def _merge(self, rows, members):
        def merge(validation, training):
            both = tf.concat([tf.gather(validation, rows), training], axis=0)
            return tf.gather(both, self._layout.member_order)

        return keras.tree.map_structure(merge, self._examples, members)


def _mask(length, members):
    mask = np.zeros(length, bool)
    mask[members] = True
    return tf.constant(mask)


def _select(examples, mask):
    return examples.filter(lambda position, example: mask[position])


def _read(examples, count):
    with tf.device("CPU:0"):
        return next(iter(examples.batch(count)))
