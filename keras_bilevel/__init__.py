"""Train Keras models on noisy labels and borrowed data."""

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
