"""One compiled model for all trials of a search."""

import contextlib

import keras_tuner


class ReusedModel(keras_tuner.HyperModel):
    """Builds a model once and starts every trial from its first weights.

    Building a model and tracing its step takes much of the time of a short
    trial. Trials that differ only in the schedule need it once, as R(t) is a
    number that `fit` sets. They are also easier to compare, as all begin with
    the same weights.

    `S2ETuner.get_best_models` makes a model of its own for each trial. With
    another tuner of KerasTuner it returns the one model of the trials, several
    times, with the weights that were loaded last.

    Args:
        build: Function without arguments that returns a new compiled
            `kb.SelectionModel` of built networks.
        schedule: Function `hp -> schedule`.

    Example:

    ```python
    tuner = kb.tuners.S2ETuner(
        kb.tuners.ReusedModel(
            make_and_compile_model,
            lambda hp: kb.schedules.S2ESchedule.from_hyperparameters(
                hp, epochs=30
            ),
        ),
        objective=keras_tuner.Objective("val_accuracy", "max"),
    )
    ```
    """

    def __init__(self, build, schedule):
        super().__init__()
        self._make = build
        self._schedule = schedule
        self._model = None
        self._first = None

    def build(self, hp):
        schedule = self._schedule(hp)
        if self._model is None:
            self._model = self._make()
            _check_built(self._model)
            self._model.optimizer.build(self._model.trainable_variables)
            model = self._model
            variables = [*model.variables, *model.optimizer.variables]
            self._first = [(v, v.numpy()) for v in variables]
        for variable, value in self._first:
            variable.assign(value)
        # `fit` makes its memory.
        self._model.rule.forget()
        self._model.schedule = schedule
        return self._model

    @contextlib.contextmanager
    def anew(self):
        """Lets `build` make a new model, which no trial will train."""
        kept = self._model, self._first
        self._model = None
        try:
            yield
        finally:
            self._model, self._first = kept


def _check_built(model):
    if not model.built:
        raise ValueError(
            "Expected built networks, whose first weights can be kept for "
            "the next trial. Received: a model that is not built. Give the "
            "networks a `keras.Input`."
        )
