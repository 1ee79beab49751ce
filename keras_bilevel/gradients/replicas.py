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


def reduce_mean(values):
    """Averages a list of tensors over all replicas, `None` stays `None`."""
    count = num_replicas()
    if count == 1:
        return values
    sums = iter(reduce_sum([v for v in values if v is not None]))
    return [None if v is None else next(sums) / count for v in values]


def gather(values):
    """Concatenates tensors of shape `(batch, ...)` over all replicas.

    Returns:
        Tensor of shape `(num_replicas * batch, ...)`, replica 0 first; `None`
        for `None`.
    """
    if values is None or num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_gather(values, axis=0)
