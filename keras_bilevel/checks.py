"""Errors of arguments in Keras' form: what was expected, what was received."""

import numbers

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
