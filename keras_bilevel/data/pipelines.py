"""Feeds batches: by tf.data, or by NumPy where TensorFlow is missing."""

import dataclasses
import itertools

import keras
import numpy as np

from keras_bilevel import keras_private
from keras_bilevel._backend import tf
from keras_bilevel.data.epochs import EpochCounter
from keras_bilevel.data.epochs import Origin


def is_stream(data):
    """Returns whether data are a `tf.data.Dataset`."""
    return tf is not None and isinstance(data, tf.data.Dataset)


def planned_batches(plan, shapes, gather, **facts):
    """Batches of arrays, in an order that is planned epoch by epoch.

    Args:
        plan: Function from the number of an epoch to a tuple of integer arrays:
            the rows that each of its steps gathers.
        shapes: Tuple of the shapes of these arrays, each `(steps, size)`.
        gather: Function from the rows of one step, an argument for each array,
            to a batch. Rows are tensors, or arrays where TensorFlow is missing.
        **facts: What else the `Origin` says.

    Returns:
        A `tf.data.Dataset`, or `NumpyBatches` where TensorFlow is missing.
    """
    if tf is None:
        origin = Origin(EpochCounter(), **facts)
        return NumpyBatches(plan, shapes, gather, origin)

    def steps(epoch):
        rows = tf.numpy_function(plan, [epoch], ["int64"] * len(shapes))
        for array, shape in zip(rows, shapes):
            array.set_shape(shape)
        return tf.data.Dataset.from_tensor_slices(tuple(rows))

    return each_epoch(steps, gather, shapes[0][0], **facts)


def each_epoch(steps, batch, cardinality, **facts):
    """A `tf.data.Dataset` that begins anew, and differently, each time.

    Args:
        steps: Function from a scalar tensor, the number of the epoch, to a
            `tf.data.Dataset` of what each step needs.
        batch: Function from an element of it to a batch.
        cardinality: Integer, steps of an epoch, or what tf.data says where
            their number is unknown.
        **facts: What else the `Origin` says.

    Returns:
        A `tf.data.Dataset` of batches with an `origin`.
    """
    counter = EpochCounter()

    def begin(_):
        epoch = tf.numpy_function(lambda: np.int64(counter()), [], "int64")
        return steps(tf.ensure_shape(epoch, []))

    dataset = (
        tf.data.Dataset.range(1)
        .flat_map(begin)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )
    if cardinality != tf.data.UNKNOWN_CARDINALITY:
        dataset = dataset.apply(
            tf.data.experimental.assert_cardinality(cardinality)
        )
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.origin = Origin(counter, **facts)
    return dataset


@dataclasses.dataclass
class ArraySpec:
    """The shape and the dtype of an array.

    Attributes:
        shape: Tuple of integers.
        dtype: `np.dtype`.
    """

    shape: tuple
    dtype: np.dtype


class NumpyBatches(keras_private.DataAdapter):
    """The batches of `planned_batches` without tf.data.

    Iterating over it begins the next epoch. It has a length.

    Args:
        plan: As of `planned_batches`.
        shapes: As of `planned_batches`.
        gather: As of `planned_batches`.
        origin: The `Origin`.
    """

    def __init__(self, plan, shapes, gather, origin):
        self._plan = plan
        self._shapes = shapes
        self._gather = gather
        self.origin = origin

    def __len__(self):
        return self._shapes[0][0]

    def __iter__(self):
        plan = self._plan(self.origin.counter())
        for rows in zip(*plan):
            yield self._gather(*rows)

    @property
    def element_spec(self):
        """The batch's structure, with an `ArraySpec` for each array."""
        first = (np.zeros(size, "int64") for _, size in self._shapes)
        return keras.tree.map_structure(
            lambda array: ArraySpec(array.shape, array.dtype),
            self._gather(*first),
        )

    def map(self, function):
        """Returns what a function makes of the parts of each batch.

        Both have one counter of epochs.
        """

        def gather(*rows):
            return function(*self._gather(*rows))

        return NumpyBatches(self._plan, self._shapes, gather, self.origin)

    def take(self, count):
        """Returns an iterator over the first batches of the next epoch."""
        return itertools.islice(self, count)


class PartOfBatches(keras_private.DataAdapter):
    """The rows of each batch that belong to one of several processes.

    Args:
        dataset: A `tf.data.Dataset` or `NumpyBatches`, the same one in all
            processes.
        index: Integer, the number of the process.
        count: Integer, the number of all.
    """

    def __init__(self, dataset, index, count):
        self._dataset = dataset
        self._index = index
        self._count = count

    def __len__(self):
        return len(self._dataset)

    def __iter__(self):
        for batch in self._dataset:
            yield keras.tree.map_structure(self._rows, batch)

    def _rows(self, tensor):
        if tensor is None:
            return None
        size, rest = divmod(len(tensor), self._count)
        if rest:
            raise ValueError(
                "Expected batches that several processes can share evenly. "
                f"Received: {len(tensor)} rows for {self._count} processes. "
                "Choose sizes that their number divides."
            )
        rows = tensor[self._index * size : (self._index + 1) * size]
        return keras.ops.convert_to_numpy(rows)


def gather_rows(columns, rows):
    """The same rows of each column, an array or a tensor."""
    return keras.tree.map_structure(
        lambda column: (
            column[rows]
            if isinstance(column, np.ndarray)
            else tf.gather(column, rows)
        ),
        columns,
    )
