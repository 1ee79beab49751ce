"""What a weighting does, as numbers in the progress bar."""

import keras
from keras import ops

from keras_bilevel import engine
from keras_bilevel import keras_private


class OutputTrackers:
    """Shows the loss of each output as it is shown of all.

    Keras takes note of it whenever a loss is computed, however examples are
    weighed: that is undone.

    Args:
        model: A compiled `keras.Model`.
    """

    def __init__(self, model):
        self._loss = keras_private.compiled_losses(model)
        metrics = [] if self._loss is None else self._loss.metrics
        self._variables = [v for m in metrics for v in m.variables]
        self._before = engine.read(self._variables)

    def update(self, step):
        """Adds the losses of an `engine.Step`, unless nothing was kept."""
        if step.shown is None or not self._variables:
            return
        y, y_pred, sample_weight = step.shown
        engine.write(self._variables, self._before)
        is_seen = ops.any(~step.dropped)
        is_seen &= ops.any(step.weights != 0)
        with engine.finite_only(self._variables, is_seen):
            self._loss(y, y_pred, sample_weight)


class StepMetrics:
    """Metrics of training steps only; `evaluate` does not know them.

    - `negative_weights`: the fraction of negative weights.
    - `effective_shards` (`effective_examples`): `1 / sum_i w_i^2` for
      normalised weights: 1 where one unit decides the step, the number of
      units where all weigh the same.
    - `dropped_shards` (`dropped_examples`): count of units whose loss or
      gradient was not finite.
    - `target_loss` (`source_loss`): for examples, the mean loss that `loss` is
      not.

    Args:
        unit: `"shard"` or `"example"`.
        other: `"target"` or `"source"`: the part of the data that `loss` is
            not about. Examples only.
    """

    def __init__(self, unit, other):
        self.negative = keras.metrics.Mean(name="negative_weights")
        self.effective = keras.metrics.Mean(name=f"effective_{unit}s")
        self.dropped = keras.metrics.Sum(name=f"dropped_{unit}s")
        self.shown = [self.negative, self.effective, self.dropped]
        self.other_loss = keras.metrics.Mean(name=f"{other}_loss")
        if unit == "example":
            self.shown.append(self.other_loss)
        # Steps whose alignments of examples do not add up.
        self.misfits = keras.metrics.Sum(name="misfits")
        # The loss that is shown has the regularisers in it.
        self.data_loss = keras.metrics.Mean(name="data_loss")

    def update(self, step, other):
        """Adds one step.

        Args:
            step: An `engine.Step`.
            other: Tuple of losses and their weights, or `None`.
        """
        if other is not None:
            self.other_loss.update_state(other[0], sample_weight=other[1])
        self.negative.update_state(ops.cast(step.weights < 0, "float32"))
        self.effective.update_state(engine.effective_units(step.weights))
        self.dropped.update_state(ops.cast(step.dropped, "float32"))
        if step.is_misfit is not None:
            self.misfits.update_state(ops.cast(step.is_misfit, "float32"))
        has_loss = ops.cast(step.has_loss, "float32")
        self.data_loss.update_state(step.losses, sample_weight=has_loss)

    def reset(self):
        for metric in [*self.shown, self.misfits, self.data_loss]:
            metric.reset_state()

    def result(self):
        return {metric.name: metric.result() for metric in self.shown}
