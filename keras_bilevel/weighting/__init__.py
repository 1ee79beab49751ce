"""Weightings: what becomes of an alignment."""

from keras_bilevel.weighting.deep_bilevel import DeepBilevel
from keras_bilevel.weighting.weighting import Weighting
