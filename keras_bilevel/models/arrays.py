"""What `fit` does to arrays before it trains: read, split, batch."""

import math

import keras

from keras_bilevel import data
from keras_bilevel.data.arrays import are_arrays
from keras_bilevel.data.arrays import read_examples
from keras_bilevel.engine import map_tensors


def split_off_tail(arrays, validation_split):
    """Splits `(x, y, sample_weight)` as Keras' `validation_split` does.

    Returns:
        Tuple of the training part and the validation part: the last
        `validation_split` of the examples, before any shuffling.
    """
    size = len(keras.tree.flatten(arrays[0])[0])
    cut = int(math.floor(size * (1.0 - validation_split)))
    if not 0 < cut < size:
        raise ValueError(
            "Invalid value for argument `validation_split`. Expected a "
            "fraction that leaves examples on both sides. Received: "
            f"validation_split={validation_split} for {size} examples."
        )

    def take(part):
        return map_tensors(lambda array: array[part], arrays)

    return take(slice(cut)), take(slice(cut, None))


def read_validation(validation_data):
    """Returns `validation_data` with arrays read as those of training are."""
    is_tuple = isinstance(validation_data, (list, tuple))
    if not is_tuple or len(validation_data) not in (2, 3):
        return validation_data
    if not are_arrays(validation_data[0]):
        return validation_data
    return read_examples(*validation_data, name="validation_data")


def super_batches(arrays, weighting, batch_size, num_replicas, **options):
    """Builds the stratified super-batches of `fit`.

    Args:
        arrays: Tuple `(x, y, sample_weight)`, the last may be `None`.
        weighting: A `Weighting` whose unit is the shard.
        batch_size: Integer, examples per step over all replicas and shards.
        num_replicas: Integer.
        **options: Further arguments of `kb.data.stratified_batches`.
    """
    shards = num_replicas * weighting.num_shards
    if batch_size % shards:
        raise ValueError(
            "Invalid value for argument `batch_size`. Expected a multiple of "
            f"num_replicas * num_shards = {shards}, so that every shard has "
            f"the same size. Received: batch_size={batch_size}"
        )
    if arrays[2] is None:
        arrays = arrays[:2]
    return data.stratified_batches(
        arrays,
        num_shards=weighting.num_shards,
        shard_size=batch_size // shards,
        num_validation_shards=weighting.num_validation_shards,
        num_replicas=num_replicas,
        ids=True,
        **options,
    )


def shuffled_batches(arrays, batch_size, num_replicas, **options):
    """Builds the batches of `fit` where no shards are needed.

    Args:
        arrays: Tuple `(x, y, sample_weight)`, the last may be `None`.
        batch_size: Integer, examples per step over all replicas.
        num_replicas: Integer.
        **options: Further arguments of `kb.data.shuffled_batches`.
    """
    if batch_size % num_replicas:
        raise ValueError(
            "Invalid value for argument `batch_size`. Expected a multiple of "
            f"the number of replicas, {num_replicas}. "
            f"Received: batch_size={batch_size}"
        )
    if arrays[2] is None:
        arrays = arrays[:2]
    return data.shuffled_batches(arrays, batch_size, **options)
