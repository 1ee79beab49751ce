"""Reductions over the replicas of a `tf.distribute` strategy."""

import tensorflow as tf


def num_replicas():
    """Returns how many replicas share the step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def reduce_sum(values):
    """Sums a structure of tensors over all replicas.

    Args:
        values: A tensor or a structure of tensors of this replica.

    Returns:
        The same structure, with the same sums on every replica.
    """
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
