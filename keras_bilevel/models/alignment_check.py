"""An error where alignments of examples are wrong."""

import keras

from keras_bilevel import engine


class AlignmentCheck(keras.callbacks.Callback):
    """Ends `fit` where the alignments of a step do not add up.

    The loss is affine in the examples' weights, so their alignments, weighted,
    add up to that of the whole loss. They do not where a second derivative is
    wrong. Such a step has changed nothing. It is looked for after the first
    batch of `fit` and after every epoch.

    Args:
        misfits: `keras.metrics.Sum` of such steps.
        network: `keras.Model` of the source examples.
    """

    def __init__(self, misfits, network):
        super().__init__()
        self.misfits = misfits
        self.network = network
        self._is_first = True

    def on_train_batch_end(self, batch, logs=None):
        if self._is_first:
            self._check()
        self._is_first = False

    def on_epoch_end(self, epoch, logs=None):
        self._check()

    def _check(self):
        if float(self.misfits.result()) > 0:
            raise ValueError(
                "Expected a network whose loss can be differentiated twice: "
                "the alignments of the examples, weighted, then add up to that "
                "of the whole loss. Received: a network where they do not; an "
                "operation in it has a wrong second derivative. No weight was "
                f"changed by it. {engine.suspects(self.network)}"
            )
