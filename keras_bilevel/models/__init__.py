"""The models that change how a network is trained."""

from keras_bilevel.models.bilevel_model import BilevelModel
