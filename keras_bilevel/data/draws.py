"""Draws the rows of each step from endless passes over source and target."""

import functools

import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.data.epochs import EPOCH
from keras_bilevel.data.epochs import PASS
from keras_bilevel.data.epochs import generator
from keras_bilevel.data.epochs import window
from keras_bilevel.data.pipelines import gather_rows
from keras_bilevel.data.streams import count_positions

# Keys that decorrelate the draws of source and target.
SOURCE = 0
TARGET = 1


class ArraySource:
    """Source batches from arrays, in passes that are permuted anew.

    Args:
        columns: Structure `(x, y)` or `(x, y, sample_weight)` of columns of
            shape `(n, ...)`, tensors or arrays.
        num_examples: Integer, `n`.
        size: Integer, examples of a batch.
        drop_remainder: Boolean, whether a pass leaves out its last, shorter
            batch.
        shuffle: Boolean.
        steps_per_epoch: Integer, or `None` if an epoch is one pass.
        seed: Integer.

    Attributes:
        cardinality: Integer, batches of an epoch.
        shape: Tuple, that of a plan: `(cardinality, size)`.
        num_examples: Integer, `n`: ids are below.
        ids_are_positions: `False`: ids are row numbers.
    """

    ids_are_positions = False

    def __init__(
        self,
        columns,
        num_examples,
        size,
        *,
        drop_remainder,
        shuffle,
        steps_per_epoch,
        seed,
    ):
        self._columns = columns
        self.num_examples = num_examples
        self._size = size
        self._drop_remainder = drop_remainder
        self._shuffle = shuffle
        self._seed = seed
        self._pass_steps = _num_steps(num_examples, size, drop_remainder)
        self.cardinality = steps_per_epoch or self._pass_steps
        self.shape = (self.cardinality, size)

    def batch(self, ids):
        """The batch `(x, y, [sample_weight,] ids)` of one step."""
        if not self._drop_remainder:
            ids = ids[ids >= 0]
        return (*gather_rows(self._columns, ids), ids)

    def plan(self, epoch):
        """The ids of each step of an epoch.

        Args:
            epoch: Integer.

        Returns:
            Integer array of shape `(steps, size)`; -1 fills a short batch.
        """
        begin, steps = int(epoch) * self.cardinality, self.cardinality
        return window(self._one_pass, self._pass_steps, begin, steps)

    def _one_pass(self, number):
        rows = np.arange(self.num_examples)
        if self._shuffle:
            rng = generator(self._seed, PASS, SOURCE, number)
            rows = rng.permutation(rows)
        length = self._pass_steps * self._size
        missing = max(0, length - len(rows))
        rows = np.pad(rows[:length], (0, missing), constant_values=-1)
        return rows.reshape(-1, self._size)


class StreamSource:
    """Source batches from a dataset of single examples.

    Args:
        dataset: A `tf.data.Dataset` of `(x, y)`, `(x, y, sample_weight)` or
            `(x, y, sample_weight, ids)`.
        size: Integer, examples of a batch.
        drop_remainder: Boolean, whether to leave out the last, shorter batch.
        shuffle_buffer: Integer, or `None` to keep the order of the dataset.
        seed: Integer.

    Attributes:
        cardinality: Integer, batches of an epoch, or what tf.data says where
            their number is unknown or infinite.
        num_examples: Integer, ids are below; `None` where that is not known.
        ids_are_positions: Boolean, `True` where ids are counted in each
            epoch, `False` where the dataset has its own.
    """

    def __init__(self, dataset, size, *, drop_remainder, shuffle_buffer, seed):
        self._examples = dataset.enumerate()
        self._size = size
        self._drop_remainder = drop_remainder
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed
        self.cardinality = int(dataset.cardinality())
        self.num_examples = count_positions(dataset)
        self.ids_are_positions = len(dataset.element_spec) != 4
        # Negative numbers say "unknown" and "infinite".
        if self.cardinality >= 0:
            self.cardinality = _num_steps(
                self.cardinality, size, drop_remainder
            )

    def steps(self, epoch):
        """A `tf.data.Dataset` with the argument of `batch` for each step.

        Args:
            epoch: Scalar integer tensor.
        """
        examples = self._examples
        if self._shuffle_buffer:
            examples = self._shuffled(epoch)
        return examples.batch(self._size, self._drop_remainder)

    def batch(self, step):
        """The batch `(x, y, [sample_weight,] ids)` of one step."""
        positions, batch = step
        *parts, ids = batch if len(batch) == 4 else (*batch, positions)
        return (*parts, tf.cast(ids, "int64"))

    def _shuffled(self, epoch):
        # tf.data combines `seed` with the global seed. While a function is
        # traced, as here, `set_seed` only sets the seed of that function.
        tf.random.set_seed(1)
        seed = tf.numpy_function(self._epoch_seed, [epoch], "int64")
        return self._examples.shuffle(
            self._shuffle_buffer,
            tf.ensure_shape(seed, []),
            reshuffle_each_iteration=False,
        )

    def _epoch_seed(self, epoch):
        return generator(self._seed, EPOCH, int(epoch)).integers(2**31)


def _num_steps(num_examples, size, drop_remainder):
    """The number of batches in a pass over some examples."""
    if drop_remainder:
        return num_examples // size
    return -(-num_examples // size)


# Block size, in steps, when the length of the epoch is unknown.
BLOCK = 1024
# Making a generator takes as long as permuting about this many examples.
ROUND = 1024


class TargetDraws:
    """Passes over the target set, each permuted anew, cut into batches.

    Args:
        columns: Structure `(x, y)` or `(x, y, sample_weight)` of columns of
            shape `(n, ...)`, tensors or arrays.
        num_examples: Integer, `n`.
        size: Integer, examples of a batch. It may exceed `n`.
        steps: Integer, batches per epoch. An epoch goes on where the previous
            one ended. A negative number means unknown or infinite: then each
            epoch begins a new pass.
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
        # A round is the passes that one generator draws.
        self._round_passes = -(-ROUND // num_examples)

    def steps(self, epoch):
        """A `tf.data.Dataset` with the argument of `batch` for each step.

        Args:
            epoch: Scalar integer tensor.

        Returns:
            A dataset of `steps` elements, or an infinite one.
        """

        def draw(block):
            rows = tf.numpy_function(self.plan, [epoch, block], "int64")
            rows.set_shape([self._block, self._size])
            return tf.data.Dataset.from_tensor_slices(rows)

        if self._known:
            return draw(0)
        return tf.data.Dataset.counter().flat_map(draw)

    def batch(self, rows):
        """The batch `(x, y)` or `(x, y, sample_weight)` of one step."""
        return gather_rows(self._columns, rows)

    def plan(self, epoch, block=0):
        """The rows of each step of one block of an epoch.

        Args:
            epoch: Integer.
            block: Integer. An epoch of known length is one block.

        Returns:
            Integer array of shape `(steps, size)`.
        """
        count = self._block * self._size
        if self._known:
            key, begin = (), int(epoch) * count
        else:
            key, begin = (int(epoch),), int(block) * count
        one_round = functools.partial(self._one_round, *key)
        length = self._round_passes * self._num_examples
        return window(one_round, length, begin, count).reshape(-1, self._size)

    def _one_round(self, *key):
        passes = np.tile(np.arange(self._num_examples), (self._round_passes, 1))
        if self._shuffle:
            rng = generator(self._seed, PASS, TARGET, *key)
            passes = rng.permuted(passes, axis=1)
        return passes.ravel()
