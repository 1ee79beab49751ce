"""Train Keras models on noisy labels and borrowed data."""

import importlib

# isort: off
from keras_bilevel import _backend
# isort: on

from keras_bilevel import callbacks
from keras_bilevel import data
from keras_bilevel import layers
from keras_bilevel import losses
from keras_bilevel import report
from keras_bilevel import schedules
from keras_bilevel import selection
from keras_bilevel import weighting
from keras_bilevel._exports import show_exports
from keras_bilevel.models import BilevelModel
from keras_bilevel.models import SelectionModel

__version__ = "0.1.0"

# Not `tuners`: it needs an extra, which `import *` must not ask for.
__all__ = [
    "BilevelModel",
    "SelectionModel",
    "callbacks",
    "data",
    "layers",
    "losses",
    "report",
    "schedules",
    "selection",
    "weighting",
]


def __dir__():
    return sorted([*__all__, "__version__", "tuners"])


def __getattr__(name):
    # KerasTuner is an extra, and takes seconds to import.
    if name == "tuners":
        return importlib.import_module("keras_bilevel.tuners")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for _room in (
    callbacks,
    layers,
    losses,
    report,
    schedules,
    selection,
    weighting,
    data.noise,
):
    show_exports(_room)
show_exports(data, "noise")
