"""Shapes of results that are not computed, and shapes known in part."""

import keras
import tensorflow as tf


def are_eager():
    """Returns whether tensors have values now, and all shapes are known."""
    return tf.executing_eagerly()


def of_result(function, *parts):
    """Returns the shape of what a function returns.

    Args:
        function: Callable that returns a tensor.
        *parts: Its arguments, structures of tensors, symbolic ones too.

    Returns:
        Tuple of integers, `None` where one is unknown.
    """
    if tf.executing_eagerly():
        return tuple(function(*parts).shape)
    specs = keras.tree.map_structure(
        lambda t: tf.TensorSpec(
            tuple(t.shape), keras.backend.standardize_dtype(t.dtype)
        ),
        parts,
    )
    traced = tf.function(function, autograph=False)
    return tuple(traced.get_concrete_function(*specs).output_shapes)


def regrouped(tensor, sizes, kept=1):
    """Reshapes the first axes of a tensor, and keeps the others.

    Args:
        tensor: Tensor. The size of an axis may be unknown.
        sizes: Tuple of integers, the new first axes; one may be -1.
        kept: Integer, the first axis that is kept.
    """
    rest = tuple(tensor.shape)[kept:]
    if None not in rest:
        return tf.reshape(tensor, (*sizes, *rest))
    result = tf.reshape(tensor, tf.concat([sizes, tf.shape(tensor)[kept:]], 0))
    known = [None if size == -1 else size for size in sizes]
    return tf.ensure_shape(result, (*known, *rest))


def with_rank(tensor, rank):
    """Returns a tensor of known rank, with or without last axes of length 1.

    On a second call of `evaluate` Keras may make all shapes unknown.

    Args:
        tensor: Tensor. One of known rank is returned as it is.
        rank: Integer, what one of unknown rank gets.
    """
    if tensor.shape.rank is not None:
        return tensor
    ones = tf.ones([tf.maximum(rank - tf.rank(tensor), 0)], "int32")
    shape = tf.concat([tf.shape(tensor)[:rank], ones], axis=0)
    return tf.ensure_shape(tf.reshape(tensor, shape), [None] * rank)
