"""The part of a stream that only validates."""

import numpy as np
import tensorflow as tf

from keras_bilevel.data.groups import concatenate_groups
from keras_bilevel.data.pools import Pool
from keras_bilevel.data.pools import check_enough
from keras_bilevel.data.pools import make_pools
from keras_bilevel.data.seeds import EPOCH
from keras_bilevel.data.seeds import generator


class StreamSplit:
    """Keeps the validation examples of a stream in memory.

    The stream is read twice: for the groups alone, so that the split can be
    the one that arrays get, and for the chosen examples.

    Args:
        chunks: A `tf.data.Dataset` of `(groups, examples)`, the stream.
        layout: A `Layout`.
        validation_ratio: Float, see `stratified_batches`.
        rare: String, see `stratified_batches`.
        shuffle: Boolean.
        seed: Integer.

    Attributes:
        trains: Boolean array, whether the example at a position trains.
        examples: `(positions, examples)`, tensors of those that validate.
        steps: Integer, super-batches of an epoch.
    """

    def __init__(self, chunks, layout, validation_ratio, rare, shuffle, seed):
        groups = concatenate_groups(chunks.map(lambda groups, _: groups))
        pools = make_pools(groups, layout, validation_ratio, rare, seed)
        check_enough(pools, layout)
        self.steps = int(pools.num_tuples.sum()) // layout.shard_size
        used = pools.num_tuples[pools.training.groups] > 0
        self.trains = _mask(len(groups), pools.training.members[used])
        validation = pools.validation
        self.examples = _read(chunks, _mask(len(groups), validation.members))
        self._names = np.unique(groups)
        rows = np.arange(len(validation.members))
        self._pool = Pool(rows, validation.groups, validation.num_groups)
        self._count = layout.validation_members
        self._shuffle = shuffle
        self._seed = seed

    def draw(self, epoch, names, chosen, dealt):
        """The validation members of some tuples.

        A group's validation examples are dealt in cycles that go on from
        chunk to chunk.

        Args:
            epoch: Integer.
            names: Integer array, groups.
            chosen: Integer array of shape `(num_tuples,)`, the group of each
                tuple, an index of `names`.
            dealt: Integer array of the shape of `names`, how many tuples of
                the group were dealt before.

        Returns:
            Integer array of shape `(num_tuples, validation_members)`, rows of
            `examples`.
        """
        key = (EPOCH, int(epoch))
        rng = generator(self._seed, *key) if self._shuffle else None
        group = np.searchsorted(self._names, names)[chosen]
        first = (dealt[chosen] + _occurrence(chosen)) * self._count
        rank = first[:, None] + np.arange(self._count)
        counts = self._pool.counts
        begin = np.cumsum(counts) - counts
        rank = begin[group][:, None] + rank % counts[group][:, None]
        return self._pool.by_group(rng)[rank]


def _occurrence(values):
    """How many times each value came before.

    Example:

    >>> _occurrence(np.array([4, 7, 4, 4]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(values, kind="stable")
    _, begin, counts = np.unique(
        values[order], return_index=True, return_counts=True
    )
    found = np.empty(len(values), "int64")
    found[order] = np.arange(len(values)) - np.repeat(begin, counts)
    return found


def _mask(length, members):
    mask = np.zeros(length, bool)
    mask[members] = True
    return mask


def _read(chunks, mask):
    """`(positions, examples)` of those that `mask` chooses."""
    examples = chunks.map(lambda groups, examples: examples).unbatch()
    chosen = tf.constant(mask)
    picked = examples.enumerate().filter(lambda position, _: chosen[position])
    with tf.device("CPU:0"):
        return next(iter(picked.batch(int(mask.sum()))))
