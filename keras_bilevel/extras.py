"""Libraries that come with extras of this package."""

import importlib


def import_extra(module, extra):
    """Returns a module of a library that comes with an extra.

    Args:
        module: Name of the module.
        extra: Name of the extra, for the error where it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(
            f"Expected {library} to be installed. Received: {error}. Install "
            f'it with `pip install "keras-bilevel[{extra}]"`.'
        ) from error
