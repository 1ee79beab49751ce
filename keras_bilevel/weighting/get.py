"""Weightings by name."""

import re

import keras

from keras_bilevel import weighting as room
from keras_bilevel.checks import wrong
from keras_bilevel.weighting.weighting import ExampleWeighting
from keras_bilevel.weighting.weighting import ShardWeighting
from keras_bilevel.weighting.weighting import Weighting


def get(identifier):
    """Returns a weighting from its name, its config, or itself.

    Args:
        identifier: A `kb.weighting.Weighting`; the name of a class of
            `kb.weighting` in snake_case, such as `"deep_bilevel"`, which is
            made with its defaults; or what
            `keras.saving.serialize_keras_object` made of a weighting.

    Returns:
        A `kb.weighting.Weighting`.

    Raises:
        ValueError: If it is none of these, or its class has arguments without a
            default.

    Example:

    >>> kb.weighting.get("deep_bilevel").num_shards
    8
    """
    found = identifier
    if isinstance(identifier, str):
        cls = _classes().get(identifier)
        found = cls and cls()
    elif isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    if isinstance(found, (ShardWeighting, ExampleWeighting)):
        return found
    raise wrong(
        "argument `weighting`",
        "a `kb.weighting.Weighting`, a `ShardWeighting` or an "
        "`ExampleWeighting`, for instance `kb.weighting.DeepBilevel()`, or "
        f"the name of one, out of {sorted(_classes())}",
        f"weighting={identifier!r} (of type {type(identifier)})",
    )


def _classes():
    """Returns a dict of name to class of all exported weightings."""
    return {
        re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower(): cls
        for cls in vars(room).values()
        if isinstance(cls, type)
        and issubclass(cls, Weighting)
        and cls.__module__ != Weighting.__module__
    }
