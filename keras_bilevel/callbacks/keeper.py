"""Callbacks whose memory can be saved, restored and copied."""

import keras
import numpy as np

from keras_bilevel import keras_private
from keras_bilevel.checks import check_integer


class Keeper(keras.callbacks.Callback):
    """A callback that keeps something over many steps or epochs.

    While it is in `fit` of a model of this package, what it keeps is saved
    and restored with the weights of the model. A copy keeps what the original
    has seen, and no model.
    """

    def get_state(self):
        """Returns what was kept, as a dict of NumPy arrays."""
        raise NotImplementedError

    def set_state(self, state):
        """Goes on from what `get_state` returned."""
        raise NotImplementedError

    def __getstate__(self):
        return keras_private.without_model(self)

    def _check_seen(self, seen):
        """Raises `ValueError` unless something was seen."""
        if not np.any(seen):
            raise ValueError(
                f"Expected `{type(self).__name__}` to have seen training. "
                "Received: one that has seen none. Train first: `model.fit("
                "..., callbacks=[history])`. KerasTuner trains with copies of "
                "its callbacks; pass this one to a `fit` of your own, with "
                "the hyperparameters that were found."
            )


class EpochCurves(Keeper):
    """Records curves against epochs, over all calls of `fit`.

    It records after every `every`-th and the last epoch of each `fit`; a
    further `fit` goes on counting. A backup may be saved before this callback
    records an epoch: a resumed run then records that epoch first, from the
    restored weights.

    Args:
        names: Sequence of strings, the curves beside `epoch`.
        every: Integer, number of epochs between two recordings.
    """

    def __init__(self, names, every):
        super().__init__()
        check_integer("every", every, 1)
        self.every = every
        self.curves = {name: [] for name in ("epoch", *names)}
        self._epoch = 0
        # Epochs of earlier calls of `fit`, which this one does not count.
        self._ahead = 0
        self._has_begun = False
        self._is_restored = False

    def record(self):
        """Appends what is to be recorded now to all curves but `epoch`."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        self._has_begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if self._has_begun:
            return
        if epoch + self._ahead < self._epoch:
            self._ahead = self._epoch - epoch
        elif epoch >= self._epoch and not self._is_restored:
            self._ahead = 0  # This `fit` counts all epochs.
        self._go_on(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._epoch, self._is_restored = epoch + 1 + self._ahead, False
        if self._epoch % self.every == 0:
            self._record()

    def on_train_end(self, logs=None):
        if self._is_restored and not self._has_begun:
            # Restored from a backup of the last epoch: no epoch will begin.
            self._go_on(self.params["epochs"])
        if self._has_begun and self._epoch not in self.curves["epoch"][-1:]:
            self._record()

    def _go_on(self, epoch):
        missed = self._epoch < epoch + self._ahead
        self._epoch = epoch + self._ahead
        if self._is_restored and missed and self._epoch % self.every == 0:
            self._record()
        self._has_begun, self._is_restored = True, False

    def _record(self):
        self.curves["epoch"].append(self._epoch)
        self.record()

    def get_state(self):
        counts = {"_epoch": self._epoch, "_ahead": self._ahead}
        state = {**self.curves, **counts}
        return {name: np.array(value) for name, value in state.items()}

    def set_state(self, state):
        for name in self.curves:
            values = state[name]
            is_flat = values.ndim == 1
            self.curves[name] = values.tolist() if is_flat else list(values)
        self._epoch, self._ahead = int(state["_epoch"]), int(state["_ahead"])
        self._is_restored = True
