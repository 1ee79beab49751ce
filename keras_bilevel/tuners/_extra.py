"""Libraries that come with extras."""

import importlib


def import_extra(module, extra="tuner"):
    """Returns a module of a library that comes with an extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(
            f"Expected {library} to be installed for `keras_bilevel.tuners`. "
            f"Received: {error}. Install it with "
            f'`pip install "keras-bilevel[{extra}]"`.'
        ) from error


# Before the modules that import them: what is missing is said at once.
import_extra("keras_tuner")
import_extra("scipy")
