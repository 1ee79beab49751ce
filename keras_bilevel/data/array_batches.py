"""Stratified super-batches of arrays in memory."""

import keras
import tensorflow as tf

from keras_bilevel.data.epochs import once_per_epoch


def array_batches(columns, plan, layout):
    """Gathers the super-batches that a plan lists.

    Args:
        columns: Structure of tensors of shape `(n, ...)`.
        plan: An `EpochPlan`.
        layout: A `Layout`.

    Returns:
        A tuple of a `tf.data.Dataset` of that structure, with leaves of
        shape `(batch_size, ...)`, and its `EpochCounter`.
    """
    shape = (plan.steps, layout.batch_size)
    epoch, counter = once_per_epoch(
        lambda number: (plan(number),), (tf.TensorSpec(shape, "int64"),)
    )

    def gather(rows):
        return keras.tree.map_structure(lambda t: tf.gather(t, rows), columns)

    dataset = (
        epoch.flat_map(tf.data.Dataset.from_tensor_slices)
        .map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .apply(tf.data.experimental.assert_cardinality(plan.steps))
        .prefetch(tf.data.AUTOTUNE)
    )
    return dataset, counter


def array_columns(x, y, sample_weight, num_examples, ids):
    """The structure of tensors of which super-batches are gathered.

    Args:
        x: Inputs, a structure of arrays of shape `(n, ...)`.
        y: Labels, a structure of arrays of shape `(n, ...)`.
        sample_weight: Structure of arrays of shape `(n,)`, or `None`.
        num_examples: Integer, `n`.
        ids: Boolean, whether to add sample weights and row numbers.

    Returns:
        `(x, y)`, `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`.
    """
    # tf.data runs on the CPU: arrays on a GPU would be copied each step.
    with tf.device("CPU:0"):
        columns = [_to_tensors(x), _to_tensors(y)]
        if sample_weight is not None:
            columns.append(_to_tensors(sample_weight))
        elif ids:
            columns.append(tf.ones(num_examples, keras.config.floatx()))
        if ids:
            columns.append(tf.range(num_examples, dtype="int64"))
    return tuple(columns)


def _to_tensors(structure):
    return keras.tree.map_structure(tf.convert_to_tensor, structure)
