"""Gradients as vectors: packed, compared, weighed and summed."""

import math

import tensorflow as tf

from keras_bilevel.engine.step import group_finder
from keras_bilevel.engine.tensorflow import gradients


class Packing:
    """Maps each variable's gradient to its place in the vector of its group.

    A group is a set of variables that share one weight: the whole network, or
    one layer. The tensors of a group are packed into one vector, so that every
    later operation is a single large one. This matters where shards are small.

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
        is_empty: Boolean, whether nothing is packed.
    """

    def __init__(self, model, gradient, per_layer, apart=frozenset()):
        variables = model.trainable_variables
        self.shapes = [variable.shape for variable in variables]
        group_of = group_finder(model, per_layer)
        numbers, packed = {}, {}
        self._group_of = {}
        for i, variable in enumerate(variables):
            key = id(variable)
            if gradient[i] is None and key not in apart:
                continue
            group = numbers.setdefault(group_of(variable), len(numbers))
            self._group_of[key] = group
            if gradient[i] is not None:
                packed.setdefault(group, []).append(i)
        self.num_groups = len(numbers)
        self._packed = packed
        self.is_empty = not packed

    def group_of(self, variable):
        """Returns the number of a variable's group."""
        return self._group_of[id(variable)]

    def pack(self, gradient):
        """Returns a list of vectors, one for each group that is packed."""
        return [
            tf.concat([tf.reshape(gradient[i], (-1,)) for i in group], 0)
            for group in self._packed.values()
        ]

    def unpack(self, vectors):
        """Returns the gradient that was packed, `None` for other variables."""
        gradient = [None] * len(self.shapes)
        for group, vector in zip(self._packed.values(), vectors):
            sizes = [math.prod(self.shapes[i]) for i in group]
            for i, part in zip(group, tf.split(vector, sizes)):
                gradient[i] = tf.reshape(part, self.shapes[i])
        return gradient

    def inner_products(self, a, b):
        """Returns the inner product in each group, a tensor `(groups,)`."""
        dots = [gradients.inner_product(x, y) for x, y in zip(a, b)]
        products = dict(zip(self._packed, dots))
        return tf.stack([products.get(g, 0.0) for g in range(self.num_groups)])

    def scale(self, vectors, factors):
        """Multiplies each group's vector by its factor.

        A factor of 0 gives 0 even where the vector is not finite.
        """
        return [
            tf.math.multiply_no_nan(vector, factors[g])
            for g, vector in zip(self._packed, vectors)
        ]


# Measured in benchmarks/speed.py: unrolled turns are up to a quarter faster
# (networks of many small operations), but memory and trace time grow with
# their number and size; a `tf.while_loop` keeps both constant.
_MOST_UNROLLED = 8
_MOST_UNROLLED_CALLS = 64
# Small shards alone cannot keep the processors busy: this many turns of the
# `tf.while_loop` may overlap.
_OVERLAP = 4


def fold(body, carry, turns, like, calls=1, unroll=False):
    """Runs `carry, output = body(turn, carry)` for each turn.

    Args:
        body: Callable `(turn, carry) -> (carry, output)`.
        carry: Structure of tensors.
        turns: Integer, number of turns, known when the step is traced.
        like: Structure of tensors of the shapes and types of one output.
        calls: Integer, how many layers a turn goes through. Defaults to `1`.
        unroll: Boolean, whether to unroll the loop in any case.

    Returns:
        Tuple of the last carry and the outputs, stacked along a new axis 0.
    """
    is_short = turns <= _MOST_UNROLLED and turns * calls <= _MOST_UNROLLED_CALLS
    if unroll or is_short:
        outputs = []
        for turn in range(turns):
            carry, output = body(turn, carry)
            outputs.append(output)
        return carry, tf.nest.map_structure(lambda *t: tf.stack(t), *outputs)
    arrays = tf.nest.map_structure(
        lambda t: tf.TensorArray(t.dtype, turns, element_shape=t.shape), like
    )

    def one_turn(turn, carry, arrays):
        carry, output = body(turn, carry)
        arrays = tf.nest.map_structure(
            lambda array, value: array.write(turn, value), arrays, output
        )
        return turn + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda turn, *_: turn < turns,
        one_turn,
        (0, carry, arrays),
        parallel_iterations=_OVERLAP,
        maximum_iterations=turns,
    )
    return carry, tf.nest.map_structure(lambda array: array.stack(), arrays)
