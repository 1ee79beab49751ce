"""A loop that carries a sum and stacks what each turn puts out."""

import tensorflow as tf

# Measured in benchmarks/speed.py: unrolled turns are up to a quarter faster
# (networks of many small operations), but memory and trace time grow with
# their number; a `tf.while_loop` keeps both constant.
MOST_UNROLLED = 8
# Small shards alone cannot keep the processors busy: this many turns of the
# `tf.while_loop` may overlap.
OVERLAP = 4


def fold(body, carry, turns, like, unroll=False):
    """Runs `carry, output = body(turn, carry)` for each turn.

    Args:
        body: Callable `(turn, carry) -> (carry, output)`.
        carry: Structure of tensors.
        turns: Integer, number of turns, known when the step is traced.
        like: Structure of tensors of the shapes and types of one output.
        unroll: Boolean, whether to do without a `tf.while_loop` in any case.

    Returns:
        Tuple of the last carry and the outputs, stacked along a new axis 0.
    """
    if unroll or turns <= MOST_UNROLLED:
        return _unrolled(body, carry, turns)
    return _looped(body, carry, turns, like)


def _unrolled(body, carry, turns):
    outputs = []
    for turn in range(turns):
        carry, output = body(turn, carry)
        outputs.append(output)
    stacked = tf.nest.map_structure(lambda *t: tf.stack(t), *outputs)
    return carry, stacked


def _looped(body, carry, turns, like):
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
        parallel_iterations=OVERLAP,
        maximum_iterations=turns,
    )
    return carry, tf.nest.map_structure(lambda array: array.stack(), arrays)
