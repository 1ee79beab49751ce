"""Libraries that only reports need."""

import importlib


def import_extra(module):
    """Returns a module of a library that comes with the extra `report`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(
            f"Expected {library} to be installed for `keras_bilevel.report`. "
            f"Received: {error}. Install it with "
            '`pip install "keras_bilevel[report]"`.'
        ) from error
