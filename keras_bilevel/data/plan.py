"""The super-batches of an epoch, as rows of example indices."""

import numpy as np

from keras_bilevel.data.pools import check_enough
from keras_bilevel.data.pools import deal
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
        tuples = self._tuples(rng)
        size = self._layout.shard_size
        used = tuples[: self._pass_steps * size]
        by_step = used.reshape(self._pass_steps, size, -1)
        # Shard j is the j-th members: (steps, tuples, members) to shard-major.
        return by_step.transpose(0, 2, 1).reshape(self._pass_steps, -1)

    def _tuples(self, rng):
        """Integer array of shape `(num_tuples, tuple_size)`."""
        training = self._draw(
            self._pools.training, self._layout.training_members, rng
        )
        validation = self._draw(
            self._pools.validation, self._layout.validation_members, rng
        )
        members = np.concatenate([validation, training], axis=1)
        members = members[:, self._layout.member_order]
        if rng is not None:
            return members[rng.permutation(len(members))]
        return members[np.argsort(training.max(axis=1), kind="stable")]

    def _draw(self, pool, num_members, rng):
        num_tuples = self._pools.num_tuples
        drawn = deal(pool.by_group(rng), pool.counts, num_tuples * num_members)
        return drawn.reshape(num_tuples.sum(), num_members)
