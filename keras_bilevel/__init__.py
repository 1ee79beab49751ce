"""Train Keras models on noisy labels and borrowed data."""

import importlib

# isort: off
from keras_bilevel import _backend
# isort: on

from keras_bilevel import callbacks
from keras_bilevel import data
from keras_bilevel import report
from keras_bilevel import schedules
from keras_bilevel import selection
from keras_bilevel import weighting
from keras_bilevel.models import BilevelModel
from keras_bilevel.models import SelectionModel

__version__ = "0.1.0"


def __getattr__(name):
    # KerasTuner is an extra, and takes seconds to import.
    if name == "tuners":
        return importlib.import_module("keras_bilevel.tuners")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
