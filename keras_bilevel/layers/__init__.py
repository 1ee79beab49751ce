"""Layers that turn the true label's probabilities into the noisy label's."""

from keras_bilevel.layers.noise_layers import LinearNoise
from keras_bilevel.layers.noise_layers import NoiseAdaptation
