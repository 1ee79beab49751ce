"""Callbacks that see every training step from the inside."""

import keras

from keras_bilevel.callbacks.keeper import Keeper
from keras_bilevel.engine import make_once


class Observer(Keeper):
    """A callback whose `observe` is part of the compiled training step.

    What it keeps is in variables, so it sees every step under
    `steps_per_execution` too, and is saved and restored with the model's
    weights while the callback is in `fit`.
    """

    def __init__(self):
        super().__init__()
        self._variables = {}
        self._restored = {}

    def set_model(self, model):
        super().set_model(model)
        self.build()

    def build(self):
        """Makes the variables whose shapes are known.

        A step that makes some while it is traced is traced twice.
        """

    def observe(self, step):
        """Takes note of one training step.

        With several replicas each of them calls this with its own part of the
        step. What is kept has to be the same on all: `engine.gather` joins
        the parts first.

        Args:
            step: An `engine.Step`, its tensors belong to the graph.
        """
        raise NotImplementedError

    def check(self, num_examples):
        """Raises `ValueError` if it cannot observe ids in `[0, num_examples)`.

        Called before the first step where the number is known.
        """

    def variable(self, name, shape, dtype):
        """Returns the variable `name`, of zeros at first.

        With several replicas each has a copy.
        """
        if name not in self._variables:
            model = self.model
            strategy = None if model is None else model.distribute_strategy
            make_once(lambda: self._make(name, shape, dtype), strategy)
        return self._variables[name]

    def _make(self, name, shape, dtype):
        variable = keras.Variable(
            keras.ops.zeros(shape, dtype), trainable=False, dtype=dtype
        )
        if name in self._restored:
            variable.assign(self._restored.pop(name))
        self._variables[name] = variable

    def get_state(self):
        return self._values()

    def set_state(self, state):
        for name, value in state.items():
            if name in self._variables:
                self._variables[name].assign(value)
            else:
                self._restored[name] = value

    def _values(self):
        variables = {name: v.numpy() for name, v in self._variables.items()}
        return {**self._restored, **variables}

    def __getstate__(self):
        # Variables belong to a strategy, and to the step that was traced.
        return {
            **super().__getstate__(),
            "_variables": {},
            "_restored": self._values(),
        }
