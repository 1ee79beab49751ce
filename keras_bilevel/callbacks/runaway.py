"""Warns where training does worse than guessing."""

import warnings

import keras
import numpy as np

# A slow start is not a runaway.
_EPOCHS = 5
_STEPS = 200


def loss_of_guessing(y, loss, tuple_size=1):
    """Returns the cross-entropy of guessing label frequencies, or `None`.

    Args:
        y: Integer labels of shape `(num_examples,)` or `(num_examples, 1)`, or
            one-hot labels of shape `(num_examples, classes)`.
        loss: What was given to `compile`.
        tuple_size: Integer. The number of examples of each class that an epoch
            sees is a multiple of it. Defaults to `1`.

    Returns:
        Float. `None` unless the loss is a cross-entropy over classes, with one
        label per example that always counts, and there are two classes.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    if keras.tree.is_nested(y) or "categorical_crossentropy" not in str(name):
        return None
    options = getattr(loss, "get_config", dict)()
    counts = _counts(np.asarray(y), "sparse" in str(name))
    ignored = options.get("ignore_class") is not None
    if ignored or counts is None or np.count_nonzero(counts) < 2:
        return None
    seen = np.maximum(counts // tuple_size, counts > 0) * tuple_size
    frequencies = seen / seen.sum()
    # No constant prediction is better than the mean of the smoothed labels.
    smoothing = options.get("label_smoothing") or 0.0
    frequencies = frequencies * (1 - smoothing) + smoothing / len(frequencies)
    frequencies = frequencies[frequencies > 0]
    return float(-np.sum(frequencies * np.log(frequencies)))


def _counts(labels, is_sparse):
    """Returns the number of examples per class, `None` for other labels."""
    if labels.ndim == 2 and labels.shape[1] > 1 and not is_sparse:
        return labels.sum(axis=0)
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return np.unique(labels, return_counts=True)[1]
    return None


class RunawayWarning(keras.callbacks.Callback):
    """Warns once if the loss does not fall below that of guessing.

    Args:
        data_loss: `keras.metrics.Mean` of the epoch's loss, regularisers left
            out.
        guessing: Float, the loss of guessing.
        judging: Integer, number of examples in the validation shards.
    """

    def __init__(self, data_loss, guessing, judging):
        super().__init__()
        self.data_loss = data_loss
        self.guessing = guessing
        self.judging = judging
        self._epochs = self._steps = 0
        self._warned = False

    def on_epoch_end(self, epoch, logs=None):
        loss = float(self.data_loss.result())
        # The comparison is false for NaN, too.
        if loss < self.guessing:
            self._epochs = self._steps = 0
            return
        self._epochs += 1
        self._steps += self.params.get("steps") or 0
        if self._epochs < _EPOCHS or self._steps < _STEPS or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"Training seems to have run away: for {self._epochs} epochs the "
            f"loss (now {loss:.3f}) was not below {self.guessing:.3f}, that of "
            "guessing label frequencies. A rate is stable here about where it "
            "is for plain SGD with batches as large as the validation shards, "
            f"{self.judging} examples. Lower the learning rate, or take larger "
            "shards (a larger `batch_size`, or fewer shards). Labels that say "
            "nothing about the inputs look the same.",
            stacklevel=2,
        )
