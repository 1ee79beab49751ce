"""Replicas: with JAX there is one, which all devices share.

Under `keras.distribution.DataParallel` a step is written for the whole batch,
and JAX divides its work.
"""

import contextlib

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_bilevel.data.pipelines import PartOfBatches


def num_replicas():
    """Returns the number of replicas."""
    return 1


def meet_in(network):
    """Returns whether layers of a network wait for other replicas."""
    return False


def reduce_sum(values):
    """Sums a structure of tensors over all replicas."""
    return values


def reduce_mean(values):
    """Averages a list of tensors over all replicas."""
    return values


def on_all(condition):
    """Returns whether a boolean scalar is true on every replica."""
    return condition


def gather(values):
    """Concatenates tensors of shape `(batch, ...)` over all replicas."""
    return values


def own_part(values, size):
    """Returns this replica's rows of what `gather` returned."""
    return values


def replicas_of(model):
    """Returns the number of replicas that a model trains on."""
    return 1


def scope_of(model):
    """Returns the context in which variables for a model are created."""
    return contextlib.nullcontext()


def has_workers(model):
    """Returns whether a model trains in several processes."""
    distribution = keras.distribution.distribution()
    return distribution is not None and jax.process_count() > 1


def of_workers(value, model):
    """Gathers an integer from all workers; each of them has to call this.

    Args:
        value: Integer of this worker.
        model: Not needed here.

    Returns:
        List of integers, in the order of the processes.
    """
    if not has_workers(model):
        return [value]
    # JAX has 32 bits by default.
    parts = np.array(divmod(int(value), 2**31), "int32")
    rows = multihost_utils.process_allgather(parts, tiled=False)
    return [int(high) * 2**31 + int(low) for high, low in rows]


def part_of_worker(dataset):
    """Returns batches that give each worker its part of every batch.

    Keras would do so for a `tf.data.Dataset` of batches of one size only.
    """
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.DataParallel):
        raise ValueError(
            "Expected `keras.distribution.DataParallel` for training in "
            f"several processes. Received: {type(distribution).__name__}."
        )
    if not distribution.auto_shard_dataset:
        return dataset
    return PartOfBatches(dataset, jax.process_index(), jax.process_count())


def check_validation(data):
    """Raises `ValueError` for validation data that Keras does not divide.

    Without this, it would say so after the first epoch.

    Args:
        data: What several workers validate on, or `None`.
    """
    if not keras.distribution.distribution().auto_shard_dataset:
        return
    if isinstance(data, (tuple, list)):
        raise ValueError(
            "Expected `validation_data` that is a `tf.data.Dataset` in several "
            "processes, since Keras divides no arrays among them. Received: "
            "arrays, or a `validation_split`. Pass `validation_data=tf.data."
            "Dataset.from_tensor_slices((x, y)).batch(n)`, where all processes "
            "divide every batch, the last one too."
        )


def check_replicated(model):
    """Raises `ValueError` for options with which Keras fails on replicas.

    Args:
        model: A compiled `keras.Model`.
    """


def check_strategy(model):
    """Raises `ValueError` for a strategy without synchronous replicas."""


def make_once(make, model=None):
    """Creates variables once for all replicas.

    Args:
        make: Function without arguments that creates them. If it is called
            while a step is traced, Keras gives them values after that.
        model: Not needed here.
    """
    make()
