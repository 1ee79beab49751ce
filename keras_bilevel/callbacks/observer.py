"""Callbacks that see every training step from the inside."""

import keras
import tensorflow as tf


class Observer(keras.callbacks.Callback):
    """A callback whose `observe` is part of the compiled training step.

    What it keeps is in variables, so it sees every step under
    `steps_per_execution` too, and is saved and restored with the model's
    weights while the callback is in `fit`.
    """

    def __init__(self):
        super().__init__()
        self._variables = {}
        self._restored = {}

    def observe(self, step):
        """Takes note of one training step.

        Args:
            step: A `gradients.Step`, its tensors belong to the graph.
        """
        raise NotImplementedError

    def check(self, num_examples):
        """Raises `ValueError` if it cannot observe ids in `[0, num_examples)`.

        Called before the first step where the number is known.
        """

    def variable(self, name, shape, dtype):
        """Returns the variable `name`, of zeros at first."""
        if name not in self._variables:
            with tf.init_scope():
                variable = keras.Variable(
                    tf.zeros(shape, dtype), trainable=False, dtype=dtype
                )
                if name in self._restored:
                    variable.assign(self._restored.pop(name))
            self._variables[name] = variable
        return self._variables[name]

    def get_state(self):
        """Returns what was kept, as a dict of NumPy arrays."""
        return {name: v.numpy() for name, v in self._variables.items()}

    def set_state(self, state):
        for name, value in state.items():
            if name in self._variables:
                self._variables[name].assign(value)
            else:
                self._restored[name] = value
