"""Imports of libraries that are installed by extras of this package."""

import importlib


def import_extra(module, extra):
    """Imports a module of a library that is installed by an extra.

    Args:
        module: Name of the module.
        extra: Name of the extra, for the error if the library is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(
            f"Expected {library} to be installed. Received: {error}. Install "
            f'it with `pip install "keras-bilevel[{extra}]"`.'
        ) from error


def axes_or_new(ax, figsize=(6, 4), extra="plots"):
    """Returns the `matplotlib.axes.Axes` to draw into.

    Args:
        ax: Those of the user, or `None` for those of a new figure.
        figsize: Tuple, width and height of a new figure in inches.
        extra: Name of the extra, for the error where matplotlib is missing.
    """
    if ax is not None:
        return ax
    # Notebooks show figures of pyplot automatically. If Axes are returned, they
    # show no other figures.
    pyplot = import_extra("matplotlib.pyplot", extra)
    return pyplot.subplots(figsize=figsize, layout="constrained")[1]


def new_figure(figsize, extra="plots"):
    """Returns a `matplotlib.figure.Figure` that pyplot does not keep open.

    Args:
        figsize: Tuple, its width and height in inches.
        extra: Name of the extra, for the error where matplotlib is missing.
    """
    module = import_extra("matplotlib.figure", extra)
    return module.Figure(figsize=figsize, layout="constrained")
