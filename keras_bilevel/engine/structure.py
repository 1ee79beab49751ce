"""Nested structures of tensors in which some places are empty."""

import keras
import tensorflow as tf

from keras_bilevel import keras_private


def tensors(structure):
    """Returns the tensors in a structure, without its empty places."""
    return [t for t in keras.tree.flatten(structure) if t is not None]


def map_tensors(function, structure):
    """Maps the tensors in a structure and leaves `None` where it is."""
    return keras.tree.map_structure(
        lambda t: None if t is None else function(t), structure
    )


def map_rows(function, y_pred):
    """Maps predictions together with what Keras' losses look for on them.

    Args:
        function: Callable of a tensor, which acts on its rows.
        y_pred: Structure of tensors.
    """

    def mapped(tensor):
        return keras_private.map_companions(function, tensor, function(tensor))

    return map_tensors(mapped, y_pred)


def unstack(structure, count):
    """Returns a list with the `count` rows of a structure of tensors.

    Masks and logits are cut with their predictions.
    """
    rows = {}

    def row(tensor, i):
        if id(tensor) not in rows:
            rows[id(tensor)] = tf.unstack(tensor, count)
        return rows[id(tensor)][i]

    return [map_rows(lambda t: row(t, i), structure) for i in range(count)]


def get_masks(y_pred):
    """Returns the Keras masks of predictions, a dict of place to mask."""
    places = enumerate(keras.tree.flatten(y_pred))
    masks = {place: keras_private.mask_of(t) for place, t in places}
    return {place: mask for place, mask in masks.items() if mask is not None}


def set_masks(y_pred, masks):
    """Gives predictions the masks that `get_masks` found on their like."""
    tensors = keras.tree.flatten(y_pred)
    for place, mask in masks.items():
        keras_private.set_mask(tensors[place], mask)
    return y_pred
