"""Errors of arguments in Keras' form: what was expected, what was received."""

import numbers


def wrong(where, expected, received, mend=""):
    """Returns a `ValueError`.

    Args:
        where: String, what is wrong, for instance "argument `x`".
        expected: String.
        received: What came, or a string that describes it.
        mend: String, what to do about it. Defaults to `""`.
    """
    return ValueError(
        f"Invalid value for {where}. Expected {expected}. Received: "
        f"{received}. {mend}".rstrip()
    )


def wrong_argument(name, value, expected, mend=""):
    """Returns a `ValueError` for an argument and its value."""
    return wrong(f"argument `{name}`", expected, f"{name}={value!r}", mend)


def is_integer(value):
    """Returns whether a value is an integer, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(name, value, least):
    """Raises `ValueError` unless `value` is an integer of at least `least`."""
    if not is_integer(value) or value < least:
        raise wrong_argument(name, value, f"an integer of at least {least}")


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
