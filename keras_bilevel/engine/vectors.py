"""Gradients as vectors, one per group of variables that share a weight.

A group is the whole network, or one layer. Packing the tensors of a group
into one vector makes every later operation one large one, which matters where
shards are small.
"""

import math

import tensorflow as tf

from keras_bilevel import keras_private


class Layout:
    """Says where each variable's gradient lies in which group's vector.

    Args:
        model: A `BilevelModel`.
        gradient: List with the gradient of each trainable variable, `None`
            where the loss does not reach it.
        per_layer: Boolean, one group per layer that owns variables, or one
            group in all.
        apart: Set of the ids of variables that belong to a group, but whose
            gradient is not packed.

    Attributes:
        num_groups: Integer.
    """

    def __init__(self, model, gradient, per_layer, apart=frozenset()):
        variables = model.trainable_variables
        self.shapes = [variable.shape for variable in variables]
        owners = _owners(model) if per_layer else {}
        numbers, packed = {}, {}
        self._group_of = {}
        for i, variable in enumerate(variables):
            key = id(variable)
            if gradient[i] is None and key not in apart:
                continue
            group = numbers.setdefault(owners.get(key), len(numbers))
            self._group_of[key] = group
            if gradient[i] is not None:
                packed.setdefault(group, []).append(i)
        self.num_groups = len(numbers)
        self._packed = packed

    def group_of(self, variable):
        """Returns the number of a variable's group."""
        return self._group_of[id(variable)]

    def is_empty(self):
        """Returns whether nothing is packed."""
        return not self._packed

    def pack(self, gradient):
        """Returns a list of vectors, for each group where there is one."""
        return [
            tf.concat([tf.reshape(gradient[i], (-1,)) for i in group], 0)
            for group in self._packed.values()
        ]

    def unpack(self, vectors):
        """Returns the list of tensors, and of `None`, that was packed."""
        gradient = [None] * len(self.shapes)
        for group, vector in zip(self._packed.values(), vectors):
            sizes = [math.prod(self.shapes[i]) for i in group]
            for i, part in zip(group, tf.split(vector, sizes)):
                gradient[i] = tf.reshape(part, self.shapes[i])
        return gradient

    def inner_products(self, a, b):
        """Returns the inner product in each group, a tensor `(groups,)`."""
        products = dict(zip(self._packed, map(_dot, a, b)))
        return tf.stack([products.get(g, 0.0) for g in range(self.num_groups)])

    def scale(self, vectors, factors):
        """Multiplies each group's vector by its factor.

        A factor of 0 gives 0 even where the vector is not finite.
        """
        return [
            tf.math.multiply_no_nan(vector, factors[g])
            for g, vector in zip(self._packed, vectors)
        ]


def gram_matrix(stacked):
    """Returns the inner products among the rows of each group.

    Args:
        stacked: List of tensors of shape `(units, size)`.

    Returns:
        Tensor of shape `(groups, units, units)`.
    """
    return tf.stack([tf.matmul(x, x, transpose_b=True) for x in stacked])


def weighted_sum(stacked, weights):
    """Returns the weighted sum of the rows of each group.

    Args:
        stacked: List of tensors of shape `(units, size)`.
        weights: Tensor of shape `(groups, units)`.
    """
    return [tf.tensordot(weights[g], x, 1) for g, x in enumerate(stacked)]


def _dot(a, b):
    return tf.matmul(a[None], b[None], transpose_b=True)[0, 0]


def _owners(model):
    """Returns the position of the layer that owns a variable, by its id."""
    return {
        id(variable): position
        for position, layer in enumerate(keras_private.all_layers(model))
        for variable in keras_private.own_trainable_variables(layer)
    }
