"""Which examples were kept, epoch by epoch."""

import numpy as np
from keras import ops

from keras_bilevel.callbacks.example_observer import ExampleObserver
from keras_bilevel.engine import write_rows
from keras_bilevel.extras import axes_or_new

NOT_SEEN = -1


class SelectionHistory(ExampleObserver):
    """Keeps which examples a `kb.SelectionModel` has learned from.

    It needs ids: `fit` on arrays gives them (the row numbers);
    `kb.data.shuffled_batches` does, and `kb.data.stratified_batches` with
    `ids=True`.

    Args:
        num_examples: Integer, ids are in `[0, num_examples)`. Defaults to
            `None`: `fit` knows it of arrays, and of datasets of `kb.data`.

    Attributes:
        kept: int8 array of shape `(epochs, num_examples)`: how many networks
            kept the example at its last visit in the epoch; -1 where it was not
            visited, because it was in no batch, nothing of it counts in the
            loss, or its data were not finite.
        example_scores: Float array of shape `(num_examples,)`, the share of
            visits at which a network kept the example, over all epochs; NaN
            where it was never visited. What `kb.report` ranks by.

    Example:

    ```python
    history = kb.callbacks.SelectionHistory(len(x))
    model.fit(x, y, batch_size=128, epochs=30, callbacks=[history])
    kb.report.suspects(history, y)
    kb.report.label_precision(history, wrong)  # Where that is known.
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 3
    """

    def __init__(self, num_examples=None):
        super().__init__(num_examples)
        self._epochs = []
        self._epoch = None
        self._is_restored = False

    def _check_model(self, model):
        super()._check_model(model)
        if not hasattr(model, "rule"):
            raise ValueError(
                "Expected a `kb.SelectionModel` for `SelectionHistory`. "
                f"Received: a `{type(model).__name__}`, which keeps or leaves "
                "out no examples. Use `kb.callbacks.ExampleHistory`."
            )

    def build(self):
        super().build()
        self._marks()
        self._networks()

    def observe_examples(self, step, ids, found, healthy):
        there = self.gather(ops.cast(_counted(found) & healthy, "int32")) > 0
        # Variables start at 0, meaning not seen.
        marks = 1 + ops.cast(ops.sum(step.weights, axis=0), "int32")
        # Examples that do not count are written to a row that nobody reads.
        places = ops.where(there, ids, ops.cast(self.num_examples, ids.dtype))
        write_rows(self._marks(), places, self.gather(marks))
        self._networks().assign(step.weights.shape[0])

    def _marks(self):
        return self.variable("marks", (self.num_examples + 1,), "int32")

    def _networks(self):
        return self.variable("networks", (), "int32")

    def on_epoch_begin(self, epoch, logs=None):
        # Not at the end of an epoch, where a backup may come first. A backup
        # from within this epoch has a part of it, which is trained again.
        if not (self._is_restored and epoch == self._epoch):
            self._epochs = list(self._so_far())
        self._epoch, self._is_restored = epoch, False
        marks = self._marks()
        marks.assign(ops.zeros_like(marks.value))

    def _so_far(self):
        current = self._marks().numpy()[:-1] - 1
        epochs = [*self._epochs, *([current] if np.any(current >= 0) else [])]
        return np.reshape(epochs, (-1, self.num_examples)).astype("int8")

    @property
    def kept(self):
        self._check_seen(self.num_examples)
        kept = self._so_far()
        self._check_seen(len(kept))
        return kept

    @property
    def example_scores(self):
        kept = self.kept
        visits = np.sum(kept != NOT_SEEN, axis=0)
        total = np.sum(np.maximum(kept, 0), axis=0, dtype="float64")
        networks = self._networks().numpy()
        share = total / np.maximum(visits * networks, 1)
        return np.where(visits > 0, share, np.nan)

    def plot(self, ax=None):
        """Plots which share of the visited examples was kept in each epoch.

        Where each network keeps its own, it is the mean over the networks.
        See `kb.report.plot_label_precision` for how many of them were right.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        kept = self.kept
        visits = np.sum(kept != NOT_SEEN, axis=1) * self._networks().numpy()
        share = np.sum(np.maximum(kept, 0), axis=1) / np.maximum(visits, 1)
        ax = axes_or_new(ax)
        ax.plot(np.arange(1, len(kept) + 1), share)
        ax.set(xlabel="epoch", ylabel="share kept", ylim=(-0.02, 1.02))
        return ax

    def get_state(self):
        epochs = np.reshape(self._epochs, (-1, self.num_examples))
        return {
            **super().get_state(),
            "epochs": epochs.astype("int8"),
            "epoch": np.array(-1 if self._epoch is None else self._epoch),
        }

    def set_state(self, state):
        state = dict(state)
        self._epochs = list(state.pop("epochs"))
        self._epoch = int(state.pop("epoch"))
        self._is_restored = True
        super().set_state(state)


def _counted(found):
    """Returns the examples of which something counts in the loss."""
    presences = [output.means()[1] for output in found]
    return ops.any(ops.stack(presences), axis=0) if found else True
