"""The gradients of shards from a pass for each."""

import keras

from keras_bilevel.data.batches import get_masks
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import set_masks
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.tensorflow import replicas
from keras_bilevel.engine.tensorflow import shapes


class OwnPasses:
    """A forward and a backward pass for each shard, for any network.

    Args:
        model: A built `BilevelModel`.
        weighting: The `ShardWeighting`.
        shards: As for `OnePass`.
        scale: The `LossScale`.

    Attributes:
        whole, meets, moving, num_calls: As for `OnePass`.
    """

    whole = ()
    num_calls = 1

    def __init__(self, model, weighting, shards, scale):
        self.meets = replicas.meet_in(model)
        self.moving = state.moving_statistics(model)
        self._model = model
        self._shards = shards
        self._scale = scale
        self._seeds = state.seed_states(model) if weighting.same_dropout else []
        self._first_seeds = state.read(self._seeds)

    def gradient(self, index):
        """Returns loss and gradient of a shard, and predictions to keep."""
        part = map_tensors(lambda t: t[index], self._shards)
        state.write(self._seeds, self._first_seeds)
        y_pred, loss, gradient = losses.data_gradient(
            self._model, part, self._scale
        )
        return loss, gradient, {"y_pred": y_pred, "masks": get_masks(y_pred)}

    def settle(self, healthy):
        """Does nothing: each pass has moved the moving averages."""

    def predictions(self, kept):
        """Returns the predictions for the whole super-batch.

        Args:
            kept: The dicts that `gradient` returned, stacked over all shards.
        """
        kept = keras.tree.map_structure(
            lambda t: shapes.regrouped(t, (-1,), 2), kept
        )
        return set_masks(kept["y_pred"], kept["masks"])
