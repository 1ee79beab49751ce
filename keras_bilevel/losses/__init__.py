"""Losses that expect wrong labels."""

from keras_bilevel.losses.bootstrapping import Bootstrapping
from keras_bilevel.losses.forward_correction import ForwardCorrection
from keras_bilevel.losses.transition import estimate_transition
