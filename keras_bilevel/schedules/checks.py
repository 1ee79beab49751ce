"""Checks that several schedules share."""

import numbers

import numpy as np


def read_integer(name, value, least):
    """Returns an integer of at least `least`."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer of at "
            f"least {least}. Received: {name}={value}"
        )
    return int(value)


def read_share(name, value):
    """Returns a float in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a float in "
            f"[0, 1], a share of the batch. Received: {name}={value}"
        )
    return float(value)


def read_positive(name, value):
    """Returns a finite float > 0."""
    if not 0 < value < float("inf"):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a finite float "
            f"> 0. Received: {name}={value}"
        )
    return float(value)


def read_numbers(name, values, low=-np.inf, high=np.inf):
    """Returns a float array of finite numbers in [low, high]."""
    values = np.array(values, "float64")
    inside = np.isfinite(values) & (low <= values) & (values <= high)
    if not np.all(inside):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite numbers in "
            f"[{low:g}, {high:g}]. Received: {name}={values.tolist()}"
        )
    return values
