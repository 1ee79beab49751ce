"""Shapes of results that are not computed."""

import jax
import keras

from keras_bilevel.engine.symbolic import spec_of_result


def are_eager():
    """Returns whether functions have to be called, not traced, for shapes."""
    return False


def of_result(function, *parts):
    """Returns the shape of what a function returns.

    Args:
        function: Callable that returns a tensor.
        *parts: Its arguments, structures of tensors, symbolic ones too.

    Returns:
        Tuple of integers, `None` where one is unknown.
    """
    leaves = keras.tree.flatten(parts)
    if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
        return tuple(spec_of_result(function, *parts).shape)
    return tuple(jax.eval_shape(function, *parts).shape)


def with_rank(tensor, rank):
    """Returns a tensor of known rank, as all are with JAX."""
    return tensor
