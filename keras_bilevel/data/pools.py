"""Which examples train and which validate, group by group."""

import dataclasses

import numpy as np

from keras_bilevel.data.rare import report_rare
from keras_bilevel.data.seeds import SPLIT
from keras_bilevel.data.seeds import generator


@dataclasses.dataclass(frozen=True)
class Pool:
    """Some examples of each group.

    Args:
        members: Integer array, the rows that are in the pool, ascending.
        groups: Integer array of the same shape, the group of each, in
            `[0, num_groups)`.
        num_groups: Integer.
    """

    members: np.ndarray
    groups: np.ndarray
    num_groups: int

    @property
    def counts(self):
        """Integer array of shape `(num_groups,)`, members of each group."""
        return np.bincount(self.groups, minlength=self.num_groups)

    def by_group(self, rng):
        """The members, group after group, shuffled within each group.

        Args:
            rng: `np.random.Generator`, or `None` to keep the data order.
        """
        shuffled = np.arange(len(self.members))
        if rng is not None:
            shuffled = rng.permutation(shuffled)
        order = np.argsort(self.groups[shuffled], kind="stable")
        return self.members[shuffled[order]]

    def draw(self, num_tuples, num_members, rng):
        """Tuples of one group each, group after group.

        Args:
            num_tuples: Integer array of shape `(num_groups,)`.
            num_members: Integer, members of a tuple.
            rng: `np.random.Generator`, or `None` to keep the data order.

        Returns:
            Integer array of shape `(sum(num_tuples), num_members)`.
        """
        take = num_tuples * num_members
        drawn = deal(self.by_group(rng), self.counts, take)
        return drawn.reshape(num_tuples.sum(), num_members)


def deal(members, counts, take):
    """The first members of each group, over again where it has too few.

    Args:
        members: Integer array, group after group.
        counts: Integer array of shape `(num_groups,)`, members per group.
        take: Integer array of shape `(num_groups,)`, how many to deal of
            each group.

    Returns:
        Integer array of shape `(sum(take),)`, group after group.

    Example:

    >>> deal(np.array([5, 6, 7, 8]), np.array([3, 1]), np.array([2, 3]))
    array([5, 6, 8, 8, 8])
    """
    first = np.repeat(np.cumsum(counts) - counts, take)
    begin = np.repeat(np.cumsum(take) - take, take)
    rank = np.arange(take.sum()) - begin
    return members[first + rank % np.repeat(counts, take)]


@dataclasses.dataclass(frozen=True)
class Pools:
    """The training and the validation pool, and the tuples of an epoch.

    Args:
        training: `Pool` that an epoch goes through.
        validation: `Pool` that only validates, empty without a split.
        num_tuples: Integer array of shape `(num_groups,)`, how many tuples
            of each group an epoch has.
    """

    training: Pool
    validation: Pool
    num_tuples: np.ndarray


def make_pools(groups, layout, validation_ratio, rare, seed):
    """Splits a data set into its pools and handles its rare groups.

    Args:
        groups: Integer array of shape `(n,)`, the group of each example.
        layout: A `Layout`.
        validation_ratio: Float, the share of each group that only validates.
        rare: String, see `stratified_batches`.
        seed: Integer.

    Returns:
        A `Pools`.
    """
    names, groups = np.unique(groups, return_inverse=True)
    validates = _choose_validation(groups, len(names), validation_ratio, seed)
    trains = ~validates
    sizes = np.bincount(groups[trains], minlength=len(names))
    num_tuples = sizes // layout.training_members
    is_rare = num_tuples == 0
    if layout.separate_validation:
        alone = np.bincount(groups, minlength=len(names)) == 1
        is_rare |= alone
        validates |= alone[groups]
    report_rare(names[is_rare], sizes[is_rare], layout.training_members, rare)
    num_tuples[is_rare] = 1 if rare == "repeat" else 0
    return Pools(
        _pool(trains, groups, len(names)),
        _pool(validates, groups, len(names)),
        num_tuples,
    )


def _choose_validation(groups, num_groups, ratio, seed):
    """Boolean array of shape `(n,)`: the share `ratio` of each group."""
    everything = _pool(np.ones(len(groups), bool), groups, num_groups)
    sizes = everything.counts
    share = np.rint(ratio * sizes).astype("int64")
    if ratio > 0:
        share = np.clip(share, 1, sizes - 1)
    chosen = deal(everything.by_group(generator(seed, SPLIT)), sizes, share)
    return np.isin(np.arange(len(groups)), chosen)


def _pool(mask, groups, num_groups):
    members = np.flatnonzero(mask)
    return Pool(members, groups[members], num_groups)


def check_enough(pools, layout):
    """Raises a `ValueError` unless there is one full super-batch."""
    num_tuples = pools.num_tuples.sum()
    if num_tuples >= layout.shard_size:
        return
    needed = layout.training_members * layout.shard_size
    raise ValueError(
        "Invalid value for argument `data`. Expected enough examples for one "
        f"super-batch: {layout.shard_size} tuples of {layout.training_members} "
        f"training examples of one group, {needed} examples. Received: "
        f"{len(pools.training.members)} training examples that make "
        f"{num_tuples} tuples. Lower `shard_size` (received "
        f"{layout.shard_size}) or `num_shards` (received {layout.num_shards})."
    )
