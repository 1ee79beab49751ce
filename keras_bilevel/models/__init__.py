"""The models that change how a network is trained."""

from keras_bilevel.models.bilevel_model import BilevelModel
from keras_bilevel.models.selection_model import SelectionModel
