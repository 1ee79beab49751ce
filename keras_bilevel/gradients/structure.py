"""Nested structures of tensors in which some places are empty."""

import keras


def tensors(structure):
    """Returns the tensors in a structure, without its empty places."""
    return [t for t in keras.tree.flatten(structure) if t is not None]


def map_tensors(function, structure):
    """Maps the tensors in a structure and leaves `None` where it is."""
    return keras.tree.map_structure(
        lambda t: None if t is None else function(t), structure
    )
