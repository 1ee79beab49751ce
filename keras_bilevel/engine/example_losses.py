"""The loss of each example of a batch, and means over some of them."""

import keras
from keras import ops

from keras_bilevel.data.batches import tensors
from keras_bilevel.data.labels import traced_class_ids
from keras_bilevel.engine import compiled_losses
from keras_bilevel.engine import losses
from keras_bilevel.engine.backend import gradients
from keras_bilevel.engine.backend import replicas
from keras_bilevel.engine.compiled_losses import per_example_sum


class ExampleLosses:
    """The loss of each example of a batch under one network.

    Args:
        network: A compiled `Wrapper`.
        batch: A `Batch`.
        y_pred: The network's predictions for it.

    Attributes:
        losses: Float32 tensor of shape `(batch_size,)`: each example's loss,
            the mean over its numbers that count.
        counts: Boolean tensor of shape `(batch_size,)`: whether any number of
            the example counts. Masked numbers, ignored classes and weights of 0
            do not.
    """

    def __init__(self, network, batch, y_pred):
        self._batch = batch
        self._y_pred = y_pred
        compiled_losses.check_per_example(network, batch.y, y_pred)
        parts = batch.y, y_pred, batch.sample_weight
        self._outputs = compiled_losses.outputs_of(network, *parts)
        if network.has_own_loss() or not self._outputs:
            self.losses, self.counts = self._by_weights(network)
        else:
            self.losses, self.counts = compiled_losses.means_of(self._outputs)

    def _by_weights(self, network):
        """Derives losses from the slopes of a loss in its sample weights."""
        batch, y_pred = self._batch, self._y_pred
        slopes = gradients.slopes(
            lambda weights: losses.loss_of(
                network, losses.weighted(batch, weights), y_pred
            ),
            ops.ones((self._size(),)),
        )
        losses.check_weighed(network, slopes)
        shares, counts = self._shares()
        slopes = ops.cast(slopes, "float32")
        size = ops.cast(ops.size(slopes), "float32")
        return ops.divide_no_nan(slopes * size, shares), counts

    def _shares(self):
        """Returns each example's weight relative to the average example."""
        outputs = self._outputs
        if not outputs:
            given = tensors(self._batch.sample_weight)
            weight = given[0] if given else ops.ones((self._size(),))
            weight = ops.reshape(weight, (self._size(), -1))
            share = ops.mean(ops.cast(weight, "float32"), axis=1)
            return share, share != 0
        shares = []
        for output in outputs:
            _, counts, present = output.terms
            counted = per_example_sum(counts)
            everything = ops.mean(per_example_sum(present))
            shares.append(ops.divide_no_nan(counted, everything))
        share = sum(shares) / len(shares)
        return share, share != 0

    def numbers_that_count(self):
        """Returns which numbers of the loss count, for each output.

        Returns:
            List with a boolean tensor of shape `(batch_size, ...)` for each
            output, or `None` for an output without a loss. `None` if there are
            no compiled losses.
        """
        if not self._outputs:
            return None
        counts = {o.path: o.terms[1] != 0 for o in self._outputs}
        paths = [p for p, _ in keras.tree.flatten_with_path(self._y_pred)]
        return [counts.get(path) for path in paths]

    def mean_over(self, kept, per_replica=False):
        """Weighs the batch so that its loss is the mean over the kept examples.

        Args:
            kept: Boolean tensor of shape `(batch_size,)`, the examples to keep.
            per_replica: Boolean, whether the mean is over the kept examples of
                this replica, or of all replicas.

        Returns:
            Tuple `(x, y, sample_weight)`.
        """
        kept = ops.cast(kept, "float32")
        masked = [output for output in self._outputs if output.is_masked]
        if not masked:
            factor = of_kept(kept, per_replica)
            return losses.weighted(self._batch, factor)
        weights = {
            output.path: losses.times(
                output.sample_weight,
                of_kept(kept, per_replica, per_example_sum(output.terms[2])),
            )
            for output in self._outputs
        }
        return (
            self._batch.x,
            self._batch.y,
            compiled_losses.packed(self._y_pred, weights),
        )

    def _size(self):
        return ops.shape(tensors(self._batch.y)[0])[0]


def of_kept(kept, per_replica, numbers=None):
    """Returns factors that turn a mean over all into one over kept examples.

    Args:
        kept: Float tensor of shape `(batch_size,)`, 0 or 1.
        per_replica: Boolean, see `mean_over`.
        numbers: Float tensor of that shape: how many numbers each example has
            in the mean. Defaults to `None`: one each.
    """
    numbers = ops.ones_like(kept) if numbers is None else numbers
    count = ops.sum(kept * numbers)
    size = ops.sum(numbers)
    if not per_replica:
        count = replicas.reduce_sum(count)
        size *= replicas.num_replicas()
    return kept * ops.divide_no_nan(size, count)


NEEDED = {
    "labels": lambda batch, y_preds: batch.y,
    "classes": lambda batch, y_preds: traced_class_ids(batch.y),
    "predictions": lambda batch, y_preds: y_preds,
}
NEEDS = tuple(NEEDED)
