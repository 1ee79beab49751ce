"""The weights of every step, in bounded memory."""

import numpy as np
from keras import ops

from keras_bilevel.callbacks.observer import Observer
from keras_bilevel.checks import check_integer
from keras_bilevel.engine import write_histogram
from keras_bilevel.engine import write_rows
from keras_bilevel.extras import axes_or_new


class WeightHistory(Observer):
    """Keeps the weights of the last `capacity` training steps.

    Groups of weights (`per_layer=True`) are averaged.

    Args:
        capacity: Integer, number of steps to keep. Defaults to `10_000`.
        log_dir: String, where to write a TensorBoard histogram of each epoch's
            weights; `None` writes none. Defaults to `None`.

    Attributes:
        weights: Float array of shape `(steps, units)`, oldest step first;
            the units of all replicas, one replica after the other.
        num_steps: Integer, number of steps seen, kept or not.

    Example:

    ```python
    history = kb.callbacks.WeightHistory(log_dir="logs")
    model.fit(x, y, batch_size=128, callbacks=[history])
    history.plot().figure.savefig("weights.png")
    ```
    """

    def __init__(self, capacity=10_000, log_dir=None):
        super().__init__()
        check_integer("capacity", capacity, 1)
        self.capacity = capacity
        self.log_dir = log_dir
        self._first_step_of_epoch = 0

    def observe(self, step):
        row = self.gather(ops.mean(step.weights, axis=0))
        size = row.shape[0]
        sizes = {v.shape[1] for v in self.variables if len(v.shape) == 2}
        if size is None or sizes - {size}:
            raise ValueError(
                "Expected as many weights in each step for `WeightHistory`. "
                f"Received: steps with {size or 'a varying number of'} weights"
                f"{', after others' if sizes else ''}. Pass "
                "`drop_remainder=True` to what makes the batches, and start "
                "with a new history for batches of another size."
            )
        kept = self.variable("kept", (self.capacity, size), "float32")
        count = self.variable("count", (), "int32")
        position = ops.reshape(count.value % self.capacity, (1,))
        write_rows(kept, position, row[None])
        count.assign(count.value + 1)

    @property
    def num_steps(self):
        return int(self.variable("count", (), "int32").numpy())

    @property
    def weights(self):
        self._check_seen(self.num_steps)
        kept = self.get_state()["kept"]
        if self.num_steps <= self.capacity:
            return kept[: self.num_steps]
        return np.roll(kept, -(self.num_steps % self.capacity), axis=0)

    def on_epoch_begin(self, epoch, logs=None):
        self._first_step_of_epoch = self.num_steps

    def on_epoch_end(self, epoch, logs=None):
        fresh = self.num_steps - self._first_step_of_epoch
        if self.log_dir is None or fresh == 0:
            return
        write_histogram(self.log_dir, "weights", self.weights[-fresh:], epoch)

    def plot(self, ax=None):
        """Plots median and spread of the weights against steps.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        weights = self.weights
        steps = np.arange(self.num_steps - len(weights), self.num_steps)
        ax = axes_or_new(ax, (7, 4))
        for low, high in ((0, 100), (25, 75)):
            ax.fill_between(
                steps,
                np.percentile(weights, low, axis=1),
                np.percentile(weights, high, axis=1),
                alpha=0.3,
                color="tab:blue",
                label=f"{low} to {high} % of the units",
            )
        ax.plot(steps, np.median(weights, axis=1), label="median")
        ax.axhline(0.0, color="black", linewidth=0.5)
        ax.set(xlabel="step", ylabel="weight")
        ax.legend()
        return ax
