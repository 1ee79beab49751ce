"""A loop that carries a sum and stacks what each turn puts out."""

import tensorflow as tf


def fold(body, carry, turns, like, unroll=False):
    """Runs `carry, output = body(turn, carry)` for each turn, in order.

    A `tf.while_loop` keeps trace time and memory independent of the number of
    turns, where an unrolled loop lets the executor run turns side by side.

    Args:
        body: Callable `(turn, carry) -> (carry, output)`.
        carry: Structure of tensors.
        turns: Integer, number of turns, known when the step is traced.
        like: Structure of tensors or `tf.TensorSpec`, what one output looks
            like.

    Returns:
        Tuple of the last carry and the outputs, stacked along a new axis 0.
    """
    if unroll:
        outs = []
        for i in range(turns):
            carry, o = body(i, carry)
            outs.append(o)
        return carry, tf.nest.map_structure(lambda *t: tf.stack(t), *outs)
    arrays = tf.nest.map_structure(
        lambda t: tf.TensorArray(t.dtype, turns, element_shape=t.shape), like
    )

    def one_turn(turn, carry, arrays):
        carry, output = body(turn, carry)
        tf.nest.assert_same_structure(output, like)
        arrays = tf.nest.map_structure(
            lambda a, t: a.write(turn, t), arrays, output
        )
        return turn + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda turn, *_: turn < turns,
        one_turn,
        (0, carry, arrays),
        parallel_iterations=1,
        maximum_iterations=turns,
    )
    return carry, tf.nest.map_structure(lambda a: a.stack(), arrays)
