"""Which examples of a stream train or validate, and in which super-batch."""

import functools

import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.data.epochs import EPOCH
from keras_bilevel.data.epochs import EpochCounter
from keras_bilevel.data.epochs import generator
from keras_bilevel.data.labels import concatenate_groups
from keras_bilevel.data.super_batches import Pool
from keras_bilevel.data.super_batches import check_enough
from keras_bilevel.data.super_batches import make_pools
from keras_bilevel.data.super_batches import report_rare
from keras_bilevel.data.super_batches import shard_major
from keras_bilevel.data.super_batches import tuple_order


class StreamPlan:
    """Assigns the examples of a chunk to super-batches.

    Each chunk makes super-batches of its own. The examples that chunks leave
    over go into a pool, which makes super-batches as well. A plan keeps no
    state of an epoch, because several iterations may run at the same time. The
    caller passes this state from chunk to chunk: the number of the epoch, its
    groups, and how many tuples each group has made.

    Args:
        layout: A `Layout`.
        rare: String, see `stratified_batches`.
        shuffle: Boolean.
        seed: Integer.
        split: A `StreamSplit`, or `None`.

    Attributes:
        counter: The `EpochCounter`, read at the first chunk of an iteration.
    """

    def __init__(self, layout, rare, shuffle, seed, split=None):
        self._layout = layout
        self._rare = rare
        self._shuffle = shuffle
        self._seed = seed
        self._split = split
        self._reported = set()
        self.counter = EpochCounter()

    def __call__(self, number, carried, groups, positions, epoch, names, dealt):
        """Plans one chunk. An empty chunk marks the end of the epoch.

        Args:
            number: Integer, the number of the chunk in the epoch.
            carried: Integer array of shape `(c,)`, the groups of the examples
                in the pool.
            groups: Integer array of shape `(n,)`, the groups of the chunk.
            positions: Integer array of shape `(n,)`, where its examples are
                in the stream.
            epoch: Integer, as returned for the previous chunk.
            names: Integer array, the groups so far, ascending.
            dealt: Integer array of the same shape, the number of tuples of each
                group so far.

        Returns:
            A tuple of the chunk's super-batches, an integer array of shape
            `(steps, batch_size)`; the rows of the chunk to append to the pool;
            the pool's super-batches; the rows to keep in the pool; and the new
            `epoch`, `names` and `dealt`. With a split, a super-batch first
            lists its validation members, as rows of the split's examples. The
            others are rows of the chunk or of the pool.
        """
        if number == 0:
            epoch = np.int64(self.counter())
        key = (EPOCH, int(epoch), int(number))
        rng = generator(self._seed, *key) if self._shuffle else None
        rows = self._training_rows(positions)
        names, dealt = _add_names(names, dealt, groups[rows])
        deal = functools.partial(self._deal, epoch, names, rng)
        group_ids = np.searchsorted(names, groups)
        batches, kept, dealt = deal(rows, group_ids, dealt)
        pool = np.append(np.searchsorted(names, carried), group_ids[kept])
        last = len(groups) == 0
        rows = np.arange(len(pool))
        of_pool, left, dealt = deal(rows, pool, dealt, last)
        if last and not dealt.any():
            self._raise_too_few(len(pool))
        return batches, kept, of_pool, left, epoch, names, dealt

    def _deal(self, epoch, names, rng, rows, group_ids, dealt, last=False):
        """Makes as many super-batches of some rows as possible.

        Args:
            epoch: Integer.
            names: Integer array, groups.
            rng: `np.random.Generator`, or `None` to keep the data order.
            rows: Integer array, ascending.
            group_ids: Integer array, the groups of the rows 0, 1, ..., as
                indices of `names`.
            dealt: Integer array of the shape of `names`.
            last: Boolean, whether no more examples of rare groups will come.

        Returns:
            A tuple of the super-batches, the rows that are left, and the new
            `dealt`.
        """
        layout = self._layout
        pool = Pool(rows, group_ids[rows], len(names))
        num_tuples = pool.counts // layout.training_members
        if last:
            rare = (num_tuples == 0) & (dealt == 0)
            num_tuples[rare] = self._tuples_of_rare(names, pool.counts, rare)
        tuples = pool.draw(num_tuples, layout.training_members, rng)
        whole = len(tuples) // layout.shard_size * layout.shard_size
        tuples = tuples[tuple_order(tuples, rng)[:whole]]
        is_left = np.zeros(len(group_ids), bool)
        is_left[rows] = True
        is_left[tuples] = False
        members = [tuples]
        chosen = group_ids[tuples[:, 0]]
        if self._split:
            members.insert(0, self._split.draw(epoch, names, chosen, dealt))
        members = np.concatenate(members, axis=1)
        dealt = dealt + np.bincount(chosen, minlength=len(names))
        return shard_major(members, layout), np.flatnonzero(is_left), dealt

    def _training_rows(self, positions):
        if self._split is None:
            return np.arange(len(positions))
        return np.flatnonzero(self._split.trains[positions])

    def _tuples_of_rare(self, names, counts, rare):
        """The number of tuples of a rare group; warns of each group once."""
        if self._split is not None:
            # The split has already reported rare groups, or dropped them.
            return 1
        new = rare & ~np.isin(names, list(self._reported))
        needed = self._layout.training_members
        self._reported.update(names[new].tolist())
        report_rare(names[new], counts[new], needed, self._rare)
        return 1 if self._rare == "repeat" else 0

    def _raise_too_few(self, found):
        raise ValueError(
            "Invalid value for argument `data`. Expected enough examples for "
            f"one super-batch: {self._layout.shard_size} tuples of "
            f"{self._layout.training_members} training examples of one group. "
            f"Received: a dataset that ended after {found} examples. Lower "
            "`shard_size` or `num_shards`."
        )


def _add_names(names, dealt, groups):
    """Adds the new groups in `groups` to `names`, and zeros to `dealt`."""
    new = groups[~np.isin(groups, names)]
    wider = np.union1d(names, new)
    counts = np.zeros(len(wider), "int64")
    counts[np.searchsorted(wider, names)] = dealt
    return wider, counts


class StreamSplit:
    """Keeps the validation examples of a stream in memory.

    The stream is read twice: first for the groups alone, to make the same split
    as for arrays, then for the validation examples.

    Args:
        chunks: A `tf.data.Dataset` of `(groups, examples)`, the stream.
        layout: A `Layout`.
        validation_ratio: Float, see `stratified_batches`.
        rare: String, see `stratified_batches`.
        shuffle: Boolean.
        seed: Integer.

    Attributes:
        trains: Boolean array, whether the example at a position trains.
        examples: `(positions, examples)`, tensors of the validation examples.
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

        A group's validation examples repeat in cycles, which continue from
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
    """How many times each value has occurred before.

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
    """`(positions, examples)` of the examples where `mask` is `True`."""
    examples = chunks.map(lambda groups, examples: examples).unbatch()
    chosen = tf.constant(mask)
    picked = examples.enumerate().filter(lambda position, _: chosen[position])
    with tf.device("CPU:0"):
        return next(iter(picked.batch(int(mask.sum()))))
