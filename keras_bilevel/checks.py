"""Errors of arguments in Keras' form: what was expected, what was received."""

import numbers
import weakref

import numpy as np


def wrong(where, expected, received, mend=""):
    """Returns a `ValueError`.

    Args:
        where: String, what is wrong, for instance "argument `x`".
        expected: String.
        received: The value, or a string that describes it.
        mend: String, what to do about it. Defaults to `""`.
    """
    return ValueError(
        f"Invalid value for {where}. Expected {expected}. Received: "
        f"{received}. {mend}".rstrip()
    )


def wrong_argument(name, value, expected, mend=""):
    """Returns a `ValueError` for an argument and its value."""
    return wrong(f"argument `{name}`", expected, f"{name}={value!r}", mend)


def check_integer(name, value, least, mend=""):
    """Returns a value as an `int`, if it is an integer of at least `least`."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < least:
        expected = f"an integer of at least {least}"
        raise wrong_argument(name, value, expected, mend)
    return int(value)


def check_shards(num_shards, num_validation_shards):
    """Raises `ValueError` unless a shard is left to train on."""
    check_integer("num_shards", num_shards, 2)
    check_integer("num_validation_shards", num_validation_shards, 1)
    if num_validation_shards >= num_shards:
        raise wrong_argument(
            "num_validation_shards",
            num_validation_shards,
            f"fewer than num_shards={num_shards}, so that a training shard is "
            "left",
        )


def check_share(name, value):
    """Returns a value as a `float`, if it is in [0, 1]."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise wrong_argument(name, value, "a float in [0, 1], a share")
    return float(value)


def check_positive(name, value, or_zero=False):
    """Returns a value as a `float`, if it is finite and above 0, or 0."""
    if _is_number(value) and 0 < value < float("inf"):
        return float(value)
    if _is_number(value) and or_zero and value == 0:
        return 0.0
    expected = f"a finite float {'>=' if or_zero else '>'} 0"
    raise wrong_argument(name, value, expected)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_numbers(name, values, low=-np.inf, high=np.inf):
    """Returns a float64 array, if all are finite and in [low, high]."""
    values = np.array(values, "float64")
    if not np.all(np.isfinite(values) & (low <= values) & (values <= high)):
        expected = f"finite numbers in [{low:g}, {high:g}]"
        raise wrong_argument(name, values.tolist(), expected)
    return values


def check_choice(name, value, choices):
    """Raises `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise wrong_argument(name, value, f"one of {choices}")


def check_type(name, value, kind, mend=""):
    """Raises `ValueError` unless `value` is an instance of a class."""
    if not isinstance(value, kind):
        raise wrong(
            f"argument `{name}`",
            f"a `{kind.__name__}`",
            f"{name}={value} (of type {type(value)})",
            mend,
        )


def check_probabilities(name, values, square=False, atol=1e-2):
    """Returns a float64 matrix, if each of its rows is a distribution.

    Args:
        name: String, the argument.
        values: Array of shape `(n, num_classes)`.
        square: Boolean, whether `n` has to be `num_classes`.
        atol: Float, how far the sum of a row may be from 1.
    """
    matrix = np.array(values, "float64")
    is_matrix = matrix.ndim == 2 and matrix.size > 0
    is_matrix = is_matrix and (not square or len(set(matrix.shape)) == 1)
    sums = matrix.sum(axis=-1) if is_matrix else np.zeros(1)
    if np.all(matrix >= 0) and np.allclose(sums, 1.0, rtol=0.0, atol=atol):
        return matrix
    shape = "(num_classes, num_classes)" if square else "(n, num_classes)"
    received = f"shape {matrix.shape}"
    if is_matrix:
        received += f", numbers from {matrix.min():g} to {matrix.max():g}, "
        received += f"sums from {sums.min():g} to {sums.max():g}"
    raise wrong(
        f"argument `{name}`",
        f"shape {shape}, numbers >= 0 with a sum of 1 in each row",
        received,
        "" if square else "Apply `keras.ops.softmax` to logits.",
    )


class NewModels:
    """Checks that a function returns a new model each time.

    A model may be new while its weights are not. Frozen ones may be shared.
    """

    def __init__(self):
        self._trained = []

    def check(self, model):
        """Raises `ValueError` for a model with weights that were trained."""
        trained = [old() for old in self._trained]
        if any(v is old for v in model.trainable_variables for old in trained):
            raise ValueError(
                "Expected `make_model` to return a new model each time, with "
                "weights of its own. Received: the same one again, which has "
                "been trained. Clone networks by `keras.models.clone_model`."
            )

    def add(self, model):
        """Notes that a model has been trained."""
        self._trained += map(weakref.ref, model.trainable_variables)


def check_remembers(owner, size):
    """Raises `ValueError` if an object remembers fewer examples than there are.

    Args:
        owner: An object with `num_examples`, an integer or `None`.
        size: Integer, how many there are, or `None` if that is not known.
    """
    if None not in (owner.num_examples, size) and size > owner.num_examples:
        raise wrong(
            f"argument `num_examples` of `{type(owner).__name__}`",
            f"at least the number of training examples, {size}",
            f"num_examples={owner.num_examples}",
            "Make a new one for other data.",
        )


def unknown_size(owner):
    """Returns a `ValueError` for an object that cannot know `num_examples`."""
    return ValueError(
        f"Expected `num_examples` for `{type(owner).__name__}`, or data that "
        "tell it. Received: num_examples=None. Pass the number of training "
        "examples, or call `fit` first with data whose size is known."
    )


def without_ids(owner):
    """Returns a `ValueError` for batches that do not tell who is who."""
    return ValueError(
        f"Expected batches with ids for `{type(owner).__name__}`, which "
        "remembers each example. Received: batches without. Pass arrays to "
        "`fit`, or build them with `kb.data.shuffled_batches` for sample "
        "selection, `kb.data.stratified_batches(..., ids=True)` for shards."
    )
