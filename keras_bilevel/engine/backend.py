"""The modules of the engine that differ between the backends of Keras.

`from keras_bilevel.engine.backend import gradients` imports
`keras_bilevel.engine.tensorflow.gradients`, or that of another backend.
"""

import importlib

import keras


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    folder = f"keras_bilevel.engine.{keras.backend.backend()}"
    return importlib.import_module(f"{folder}.{name}")
