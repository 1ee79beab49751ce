"""Callbacks whose memory can be saved, restored and copied."""

import keras
import numpy as np


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
        return {**vars(self), "_model": None}

    def _check_seen(self, seen):
        """Raises `ValueError` unless something was seen."""
        if not np.any(seen):
            raise ValueError(
                f"Expected a `{type(self).__name__}` that has seen training. "
                "Received: one that has seen none. Train first: `model.fit("
                "..., callbacks=[history])`. KerasTuner trains with copies of "
                "its callbacks; pass this one to a `fit` of your own, with "
                "the hyperparameters that were found."
            )
