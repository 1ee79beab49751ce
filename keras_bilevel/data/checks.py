"""Checks that several arguments share."""

import numbers


def check_integer(name, value, least):
    """Raises a `ValueError` unless `value` is an integer >= `least`."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer of at "
            f"least {least}. Received: {name}={value}"
        )
