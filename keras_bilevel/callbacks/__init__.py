"""Callbacks that watch weights, examples and memorisation."""

from keras_bilevel.callbacks.example_history import ExampleHistory
from keras_bilevel.callbacks.label_curves import LabelCurves
from keras_bilevel.callbacks.observer import Observer
from keras_bilevel.callbacks.selection_history import SelectionHistory
from keras_bilevel.callbacks.weight_evolution import WeightEvolution
from keras_bilevel.callbacks.weight_history import WeightHistory
