"""Where each member of a tuple goes in a super-batch."""

import dataclasses

import numpy as np

from keras_bilevel.data.checks import check_integer


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sizes of a super-batch, and the order of the shards in it.

    A super-batch is `shard_size` tuples of `tuple_size` examples each. All
    examples of a tuple belong to the same group, and shard `j` consists of
    the `j`-th members, hence all shards hold the same label counts.

    Args:
        num_shards: Integer, shards per replica.
        shard_size: Integer, examples per shard.
        num_validation_shards: Integer, how many of a replica's shards
            validate. They come first.
        num_replicas: Integer, the number of replicas.
        separate_validation: Boolean, whether some examples are kept for the
            validation shards alone.
    """

    num_shards: int
    shard_size: int
    num_validation_shards: int = 1
    num_replicas: int = 1
    separate_validation: bool = False

    def __post_init__(self):
        check_integer("num_shards", self.num_shards, 2)
        check_integer("shard_size", self.shard_size, 1)
        check_integer("num_validation_shards", self.num_validation_shards, 1)
        check_integer("num_replicas", self.num_replicas, 1)
        if self.num_validation_shards >= self.num_shards:
            raise ValueError(
                "Invalid value for argument `num_validation_shards`. Expected "
                "fewer than `num_shards`, so that at least one shard is left "
                "to train on. Received: num_validation_shards="
                f"{self.num_validation_shards}, num_shards={self.num_shards}"
            )

    @property
    def tuple_size(self):
        """Members of a tuple: the shards of all replicas."""
        return self.num_replicas * self.num_shards

    @property
    def batch_size(self):
        """Examples in a super-batch."""
        return self.tuple_size * self.shard_size

    @property
    def validation_members(self):
        """Members of a tuple that come from a validation pool."""
        if not self.separate_validation:
            return 0
        return self.num_replicas * self.num_validation_shards

    @property
    def training_members(self):
        """Members of a tuple that come from the training pool."""
        return self.tuple_size - self.validation_members

    @property
    def member_order(self):
        """Where each shard's member is in `[*validation, *training]`.

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
