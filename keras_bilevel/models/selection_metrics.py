"""What a selection does, as numbers in the progress bar."""

import keras
from keras import ops


class SelectionMetrics:
    """Metrics of training steps only; `evaluate` does not know them.

    - `kept`: the share of the examples that was learned from, the mean over
      the networks.
    - `dropped_examples`: count of examples whose loss or gradient was not
      finite.
    """

    def __init__(self):
        self.kept = keras.metrics.Mean(name="kept")
        self.dropped = keras.metrics.Sum(name="dropped_examples")
        self.shown = [self.kept, self.dropped]

    def update(self, step):
        """Adds one `engine.Step`."""
        self.kept.update_state(step.weights)
        self.dropped.update_state(ops.cast(step.dropped, "float32"))

    def reset(self):
        for metric in self.shown:
            metric.reset_state()

    def result(self):
        return {metric.name: metric.result() for metric in self.shown}
