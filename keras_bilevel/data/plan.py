"""The super-batches of an epoch, as rows of example indices."""

import numpy as np

from keras_bilevel.data.pools import check_enough
from keras_bilevel.data.seeds import PASS
from keras_bilevel.data.seeds import generator


class EpochPlan:
    """Says which examples are in which super-batch of which epoch.

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
        end = begin + self.steps
        first = begin // self._pass_steps
        last = (end - 1) // self._pass_steps
        rows = [self._one_pass(number) for number in range(first, last + 1)]
        skipped = first * self._pass_steps
        return np.concatenate(rows)[begin - skipped : end - skipped]

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
    """In which order the tuples of some training members come.

    Args:
        training: Integer array of shape `(num_tuples, training_members)`.
        rng: `np.random.Generator` to shuffle them, or `None` for the order
            of their last members.
    """
    if rng is not None:
        return rng.permutation(len(training))
    return np.argsort(training.max(axis=1), kind="stable")


def shard_major(tuples, layout):
    """The whole super-batches that tuples make.

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
