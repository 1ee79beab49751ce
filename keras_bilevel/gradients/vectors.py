"""Gradients as vectors: inner products and weighted sums, by groups.

A gradient is a list of float32 tensors, one for each variable that the loss
reaches. A group is a set of variables that share one weight: the whole
network, or one layer.
"""

import tensorflow as tf


def assign_groups(model, variables, per_layer):
    """Returns the group of each variable, a list of integers from 0 on."""
    if not per_layer:
        return [0] * len(variables)
    owner = {
        id(variable): position
        for position, layer in enumerate(model._flatten_layers())
        for variable in layer._trainable_variables
    }
    owners = [owner[id(variable)] for variable in variables]
    numbers = {o: group for group, o in enumerate(dict.fromkeys(owners))}
    return [numbers[o] for o in owners]


def inner_products(a, b, groups):
    """Returns the inner product of two gradients in each group.

    Args:
        a: List of tensors.
        b: List of tensors of the same shapes.
        groups: List of integers, the group of each tensor.

    Returns:
        Tensor of shape `(groups,)`.
    """
    return _per_group([_dot(x, y) for x, y in zip(a, b)], groups)


def gram_matrix(stacked, groups):
    """Returns the inner products among stacked gradients in each group.

    Args:
        stacked: List of tensors of shape `(units, ...)`.
        groups: List of integers, the group of each tensor.

    Returns:
        Tensor of shape `(groups, units, units)`.
    """
    rows = [tf.reshape(x, (x.shape[0], -1)) for x in stacked]
    grams = [tf.matmul(r, r, transpose_b=True) for r in rows]
    return _per_group(grams, groups)


def weighted_sum(stacked, weights, groups):
    """Returns the weighted sum of stacked gradients.

    Args:
        stacked: List of tensors of shape `(units, ...)`.
        weights: Tensor of shape `(groups, units)`.
        groups: List of integers, the group of each tensor.
    """
    return [
        tf.tensordot(weights[group], x, 1) for group, x in zip(groups, stacked)
    ]


def scale(gradient, factors, groups):
    """Multiplies a gradient by one factor per group.

    A factor of 0 gives 0 even where the gradient is not finite.
    """
    return [
        tf.math.multiply_no_nan(x, factors[group])
        for group, x in zip(groups, gradient)
    ]


def _dot(a, b):
    # A row times a column: no elementwise product is stored.
    a, b = tf.reshape(a, (1, -1)), tf.reshape(b, (1, -1))
    return tf.matmul(a, b, transpose_b=True)[0, 0]


def _per_group(values, groups):
    members = [[] for _ in range(max(groups) + 1)]
    for value, group in zip(values, groups):
        members[group].append(value)
    return tf.stack([tf.add_n(m) for m in members])
