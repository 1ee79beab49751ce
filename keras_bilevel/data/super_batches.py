"""Super-batches of an epoch: groups, tuples of one group, shards."""

import dataclasses
import warnings

import numpy as np

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_shards
from keras_bilevel.checks import wrong
from keras_bilevel.data.epochs import PASS
from keras_bilevel.data.epochs import SPLIT
from keras_bilevel.data.epochs import generator
from keras_bilevel.data.epochs import window


class Layout:
    """The sizes of a super-batch, and the order of the shards in it.

    A super-batch is `shard_size` tuples of `tuple_size` examples each. All
    examples of a tuple belong to the same group, and shard `j` consists of
    the `j`-th members. So all shards have the same label counts.

    Args:
        num_shards: Integer, shards per replica.
        shard_size: Integer, examples per shard.
        num_validation_shards: Integer, how many of a replica's shards
            validate. They come first.
        num_replicas: Integer, the number of replicas.
        separate_validation: Boolean, whether some examples are kept for the
            validation shards alone.

    Attributes:
        tuple_size: Integer, members of a tuple: the shards of all replicas.
        batch_size: Integer, examples in a super-batch.
        validation_members: Integer, members of a tuple that come from a
            validation pool.
        training_members: Integer, those that come from the training pool.
    """

    def __init__(
        self,
        num_shards,
        shard_size,
        num_validation_shards=1,
        num_replicas=1,
        separate_validation=False,
    ):
        check_shards(num_shards, num_validation_shards)
        check_integer("shard_size", shard_size, 1)
        check_integer("num_replicas", num_replicas, 1)
        self.num_shards = num_shards
        self.shard_size = shard_size
        self.num_validation_shards = num_validation_shards
        self.num_replicas = num_replicas
        self.separate_validation = separate_validation
        self.tuple_size = num_replicas * num_shards
        self.batch_size = self.tuple_size * shard_size
        self.validation_members = 0
        if separate_validation:
            self.validation_members = num_replicas * num_validation_shards
        self.training_members = self.tuple_size - self.validation_members

    @property
    def member_order(self):
        """The position of each shard's member in `[*validation, *training]`.

        Returns:
            Integer array of shape `(tuple_size,)`: replica after replica,
            in each the validation shards first.
        """
        members = np.arange(self.tuple_size)
        validation = members[: self.validation_members]
        training = members[self.validation_members :]
        by_replica = [
            validation.reshape(self.num_replicas, -1),
            training.reshape(self.num_replicas, -1),
        ]
        return np.concatenate(by_replica, axis=1).ravel()


RARE = ("repeat", "drop", "error")


def report_rare(names, sizes, needed, rare):
    """Warns of rare groups, or raises, depending on `rare`.

    Args:
        names: Iterable of integers, the groups.
        sizes: Iterable of integers, how many examples each has.
        needed: Integer, how many examples one tuple needs.
        rare: String, one of `RARE`.
    """
    listed = [f"{name} ({size})" for name, size in zip(names, sizes)]
    if not listed or rare == "drop":
        return
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    message = (
        f"Some groups have fewer training examples than the {needed} of one "
        "tuple (one for each shard of each replica), or none left to "
        f"validate. Group (examples): {', '.join(listed[:20])}{more}."
    )
    if rare == "error":
        raise ValueError(
            f"{message} Lower `num_shards`, merge groups with `stratify_by`, "
            "or pass rare='repeat' or rare='drop'. Received: rare='error'"
        )
    warnings.warn(
        f"{message} Their examples are repeated to fill one tuple an epoch; "
        "rare='drop' leaves them out.",
        stacklevel=4,
    )


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
    """The first members of each group, repeated if it has too few.

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
        training: `Pool` that an epoch passes over.
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
    raise wrong(
        "argument `data`",
        f"enough examples for one super-batch: {layout.shard_size} tuples of "
        f"{layout.training_members} training examples of one group, {needed} "
        "examples",
        f"{len(pools.training.members)} training examples that make "
        f"{num_tuples} tuples",
        f"Lower `shard_size` (received {layout.shard_size}) or `num_shards` "
        f"(received {layout.num_shards}); in `fit` their product is "
        "`batch_size`.",
    )


class EpochPlan:
    """Assigns examples to the super-batches of each epoch.

    Each pass over the training pool permutes every group, cuts it into
    tuples of one example per shard, shuffles the tuples and puts
    `shard_size` of them into each super-batch.

    Args:
        pools: A `Pools`.
        layout: A `Layout`.
        shuffle: Boolean. Without it, members come in the order of the data
            and tuples in the order of their last training member.
        seed: Integer.
        steps_per_epoch: Integer, super-batches of an epoch, which are then
            taken from an endless sequence of passes. `None` makes an epoch
            one pass.
    """

    def __init__(self, pools, layout, shuffle, seed, steps_per_epoch=None):
        check_enough(pools, layout)
        self._pools = pools
        self._layout = layout
        self._shuffle = shuffle
        self._seed = seed
        self._pass_steps = int(pools.num_tuples.sum()) // layout.shard_size
        self.steps = steps_per_epoch or self._pass_steps

    def __call__(self, epoch):
        """The super-batches of an epoch.

        Args:
            epoch: Integer.

        Returns:
            Integer array of shape `(steps, batch_size)`, each row one
            super-batch, shard after shard.
        """
        begin = epoch * self.steps
        return window(self._one_pass, self._pass_steps, begin, self.steps)

    def _one_pass(self, number):
        rng = generator(self._seed, PASS, number) if self._shuffle else None
        pools, layout = self._pools, self._layout
        num_tuples = pools.num_tuples
        training = pools.training.draw(num_tuples, layout.training_members, rng)
        validation = pools.validation.draw(
            num_tuples, layout.validation_members, rng
        )
        members = np.concatenate([validation, training], axis=1)
        members = members[:, layout.member_order]
        order = tuple_order(training, rng)
        return shard_major(members[order], layout)


def tuple_order(training, rng):
    """The order in which tuples come, as an array of their indices.

    Args:
        training: Integer array of shape `(num_tuples, training_members)`.
        rng: `np.random.Generator` to shuffle them, or `None` for the order
            of their last members.
    """
    if rng is not None:
        return rng.permutation(len(training))
    return np.argsort(training.max(axis=1), kind="stable")


def shard_major(tuples, layout):
    """Arranges tuples in complete super-batches, shard after shard.

    Args:
        tuples: Integer array of shape `(num_tuples, tuple_size)`.
        layout: A `Layout`.

    Returns:
        Integer array of shape `(steps, batch_size)`, whose rows are the first
        members of `shard_size` tuples, then their second members and so on.
    """
    steps = len(tuples) // layout.shard_size
    used = tuples[: steps * layout.shard_size]
    by_step = used.reshape(steps, layout.shard_size, layout.tuple_size)
    return by_step.transpose(0, 2, 1).reshape(steps, layout.batch_size)
