"""The loss of each example of a batch, to rank and to pick examples by."""

import keras
import tensorflow as tf

from keras_bilevel.engine import compiled_losses
from keras_bilevel.engine import losses
from keras_bilevel.engine import replicas
from keras_bilevel.engine.compiled_losses import per_example_sum
from keras_bilevel.engine.structure import tensors


class ExampleLosses:
    """What each example of a batch adds to a network's loss.

    Args:
        network: A compiled `Wrapper`.
        batch: A `Batch`.
        y_pred: What the network predicts for it.

    Attributes:
        losses: Float32 tensor of shape `(batch_size,)`: each example's loss,
            the mean over what counts in it.
        counts: Boolean tensor of shape `(batch_size,)`: whether anything of
            the example counts. Masks, ignored classes and weights of 0 say no.
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
        """Reads a network's own `compute_loss` from its slopes in weights."""
        shares, counts = self._shares()
        slopes = losses.slopes_in_weights(network, self._batch, self._y_pred)
        size = tf.cast(tf.size(slopes), tf.float32)
        return tf.math.divide_no_nan(slopes * size, shares), counts

    def _shares(self):
        """Returns how much each example counts, beside the mean of all."""
        outputs = self._outputs
        if not outputs:
            given = tensors(self._batch.sample_weight)
            weight = given[0] if given else tf.ones(self._size())
            weight = tf.reshape(weight, (self._size(), -1))
            share = tf.reduce_mean(tf.cast(weight, tf.float32), axis=1)
            return share, share != 0
        shares = []
        for output in outputs:
            _, counts, present = output.terms
            counted = per_example_sum(counts)
            everything = tf.reduce_mean(per_example_sum(present))
            shares.append(tf.math.divide_no_nan(counted, everything))
        share = tf.add_n(shares) / len(shares)
        return share, share != 0

    def numbers_that_count(self):
        """Returns which numbers of the loss count, for each output.

        Returns:
            List with a boolean tensor of shape `(batch_size, ...)` for each
            output, and `None` for one without a loss; or `None` where there
            are no compiled losses.
        """
        if not self._outputs:
            return None
        counts = {o.path: o.terms[1] != 0 for o in self._outputs}
        paths = [p for p, _ in keras.tree.flatten_with_path(self._y_pred)]
        return [counts.get(path) for path in paths]

    def mean_over(self, kept, per_replica=False):
        """Returns the batch, weighed so that its loss is that of a part of it.

        Args:
            kept: Boolean tensor of shape `(batch_size,)`, what to keep.
            per_replica: Boolean, whether the part is of this replica's
                examples alone, or of those of all.

        Returns:
            Tuple `(x, y, sample_weight)`.
        """
        kept = tf.cast(kept, tf.float32)
        masked = [output for output in self._outputs if output.is_masked]
        if not masked:
            factor = of_kept(kept, tf.ones_like(kept), per_replica)
            return losses.weighted(self._batch, factor)
        weights = {
            output.path: losses.times(
                output.sample_weight,
                of_kept(kept, per_example_sum(output.terms[2]), per_replica),
            )
            for output in self._outputs
        }
        return (
            self._batch.x,
            self._batch.y,
            compiled_losses.packed(self._y_pred, weights),
        )

    def _size(self):
        return tf.shape(tensors(self._batch.y)[0])[0]


def of_kept(kept, numbers, per_replica):
    """Returns factors that turn a mean over all into one over the kept.

    Args:
        kept: Float tensor of shape `(batch_size,)`, 0 or 1.
        numbers: Float tensor of that shape: how many numbers of each example
            the mean is over.
        per_replica: Boolean, see `mean_over`.
    """
    count = tf.reduce_sum(kept * numbers)
    size = tf.reduce_sum(numbers)
    if not per_replica:
        count = replicas.reduce_sum(count)
        size *= replicas.num_replicas()
    return kept * tf.math.divide_no_nan(size, count)
