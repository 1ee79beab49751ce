"""A loop that carries a sum and stacks what each turn puts out."""

import tensorflow as tf

# Small shards alone cannot keep the processors busy: this many turns may
# overlap. More of them cost memory (see benchmarks/speed.py).
OVERLAP = 4


def fold(body, carry, turns, like):
    """Runs `carry, output = body(turn, carry)` for each turn.

    A `tf.while_loop` rather than an unrolled one: one turn is traced however
    many there are, and memory does not grow with their number.

    Args:
        body: Callable `(turn, carry) -> (carry, output)`.
        carry: Structure of tensors.
        turns: Integer, number of turns, known when the step is traced.
        like: Structure of tensors of the shapes and types of one output.

    Returns:
        Tuple of the last carry and the outputs, stacked along a new axis 0.
    """
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
