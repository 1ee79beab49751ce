"""The target batches: an endless sequence of draws from a small set."""

import numpy as np
import tensorflow as tf

from keras_bilevel.data.seeds import PASS
from keras_bilevel.data.seeds import generator
from keras_bilevel.data.sources import gather_rows

# A key that decorrelates the draws of target and source.
TARGET = 1
# Steps that are planned at a time where the epoch's length is unknown.
BLOCK = 1024
# To make a generator takes as long as to permute about so many examples.
ROUND = 1024


class TargetDraws:
    """Passes over the target set, each permuted anew, cut into batches.

    Args:
        columns: Structure `(x, y)` or `(x, y, sample_weight)` of tensors of
            shape `(n, ...)`.
        num_examples: Integer, `n`.
        size: Integer, examples of a batch. It may exceed `n`.
        steps: Integer, batches of an epoch, which goes on where the one
            before ended. A negative number says that no one knows: then each
            epoch has passes of its own.
        shuffle: Boolean.
        seed: Integer.
    """

    def __init__(self, columns, num_examples, size, *, steps, shuffle, seed):
        self._columns = columns
        self._size = size
        self._known = steps >= 0
        self._block = steps if self._known else BLOCK
        self._shuffle = shuffle
        self._seed = seed
        self._num_examples = num_examples
        # A round is as many passes as one generator draws.
        self._round_passes = -(-ROUND // num_examples)

    def steps(self, epoch):
        """A `tf.data.Dataset` of what `batch` needs, step after step.

        Args:
            epoch: Scalar integer tensor.

        Returns:
            A dataset of `steps` elements, or one without end.
        """

        def draw(block):
            rows = tf.numpy_function(self._draw, [epoch, block], "int64")
            rows.set_shape([self._block, self._size])
            return tf.data.Dataset.from_tensor_slices(rows)

        if self._known:
            return draw(0)
        return tf.data.Dataset.counter().flat_map(draw)

    def batch(self, rows):
        """The batch `(x, y)` or `(x, y, sample_weight)` of one step."""
        return gather_rows(self._columns, rows)

    def _draw(self, epoch, block):
        """Integer array of shape `(steps, size)`, the rows of one block."""
        count = self._block * self._size
        if self._known:
            key, begin = (), int(epoch) * count
        else:
            key, begin = (int(epoch),), int(block) * count
        length = self._round_passes * self._num_examples
        first, skipped = divmod(begin, length)
        num_rounds = -(-(skipped + count) // length)
        rows = [self._one_round(*key, first + n) for n in range(num_rounds)]
        rows = np.concatenate(rows)[skipped : skipped + count]
        return rows.reshape(-1, self._size)

    def _one_round(self, *key):
        passes = np.tile(np.arange(self._num_examples), (self._round_passes, 1))
        if self._shuffle:
            rng = generator(self._seed, PASS, TARGET, *key)
            passes = rng.permuted(passes, axis=1)
        return passes.ravel()
