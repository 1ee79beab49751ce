"""One gradient for several networks, each on its selected examples."""

import keras
import tensorflow as tf

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import tensors
from keras_bilevel.data.labels import traced_class_ids
from keras_bilevel.engine import compiled_losses
from keras_bilevel.engine import gradients
from keras_bilevel.engine import replicas
from keras_bilevel.engine import state
from keras_bilevel.engine.bad_examples import without_bad
from keras_bilevel.engine.compiled_losses import per_example_sum
from keras_bilevel.engine.step import Step


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
        """Derives losses from the slopes of a network's own `compute_loss`."""
        shares, counts = self._shares()
        slopes = gradients.slopes_in_weights(network, self._batch, self._y_pred)
        size = tf.cast(tf.size(slopes), tf.float32)
        return tf.math.divide_no_nan(slopes * size, shares), counts

    def _shares(self):
        """Returns each example's weight relative to the average example."""
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
        kept = tf.cast(kept, tf.float32)
        masked = [output for output in self._outputs if output.is_masked]
        if not masked:
            factor = of_kept(kept, tf.ones_like(kept), per_replica)
            return gradients.weighted(self._batch, factor)
        weights = {
            output.path: gradients.times(
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
    """Returns factors that turn a mean over all into one over kept examples.

    Args:
        kept: Float tensor of shape `(batch_size,)`, 0 or 1.
        numbers: Float tensor of that shape: how many numbers each example has
            in the mean.
        per_replica: Boolean, see `mean_over`.
    """
    count = tf.reduce_sum(kept * numbers)
    size = tf.reduce_sum(numbers)
    if not per_replica:
        count = replicas.reduce_sum(count)
        size *= replicas.num_replicas()
    return kept * tf.math.divide_no_nan(size, count)


def walk(
    networks,
    select,
    disagree,
    batch,
    scale,
    per_replica=False,
    needs=(),
    penalize=None,
):
    """Selects examples for each network and computes the joint gradient.

    Args:
        networks: List of networks, each in a built and compiled `Wrapper`.
        select: Function `(losses, disagree, **needed)` to a boolean tensor of
            the shape of the losses, `(networks, batch_size)`.
        disagree: Function `(y_preds, counts)` to a boolean tensor of shape
            `(batch_size,)`, see `disagreement`.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`.
        per_replica: Boolean, whether to select on each replica separately, or
            among the examples of all replicas.
        needs: Tuple of names out of those that `kb.selection.Rule` lists.
        penalize: Function `(batch, y_preds, usable)` to a term of the loss for
            each network and example, `(networks, batch_size)`. Defaults to
            `None`, no such term.

    Returns:
        A `Step`. Its weights, of shape `(networks, batch_size)`, are 1 where a
        network learns from an example and 0 elsewhere. It has one loss and one
        item in the list `y_pred` per network.
    """
    moving = state.moving_statistics(*networks)
    before = state.read(moving)
    good = True
    for network in networks:
        batch, is_own = without_bad(network, batch, scale)
        good &= is_own
    with tf.GradientTape() as tape:
        y_preds = [network(batch.x, training=True) for network in networks]
        with tape.stop_recording():
            singles = [
                ExampleLosses(network, batch, y_pred)
                for network, y_pred in zip(networks, y_preds)
            ]
            single = tf.stack([one.losses for one in singles])
            is_finite = tf.reduce_all(tf.math.is_finite(single), axis=0)
            counts = tf.reduce_all([one.counts for one in singles], axis=0)
            usable = good & is_finite & counts
            ranked = tf.where(usable, single, float("inf"))
            differ = disagree(y_preds, singles[0].numbers_that_count())
            needed = {name: _NEEDED[name](batch, y_preds) for name in needs}
            mask = _select(select, ranked, differ, needed, per_replica)
            parts = [
                one.mean_over(kept, per_replica)
                for one, kept in zip(singles, tf.unstack(mask))
            ]
        means = tf.stack(
            [
                gradients.loss_of(network, part, y_pred)
                for network, part, y_pred in zip(networks, parts, y_preds)
            ]
        )
        if penalize is not None:
            terms = penalize(batch, y_preds, usable)
            means += tf.cast(_means(terms, mask, per_replica), means.dtype)
        total = scale.up(tf.reduce_sum(means))
    variables = _variables(networks)
    gradient = [scale.down(g) for g in tape.gradient(total, variables)]
    healthy = state.all_finite([g for g in gradient if g is not None])
    healthy &= ~state.spoiled(moving, before)
    state.restore_unless(healthy, moving, before)
    means = tf.cast(means, tf.float32) * replicas.num_replicas()
    return Step(
        variables=variables,
        gradients=[
            None if g is None else scale.mask(healthy, g) for g in gradient
        ],
        weights=tf.cast(mask & healthy, tf.float32),
        losses=tf.where(healthy, means, 0.0),
        has_loss=tf.reduce_any(mask, axis=1) & healthy,
        dropped=~(good & is_finite & healthy),
        batch=batch,
        y_pred=y_preds,
        shown=(batch.y, y_preds[0], parts[0][2]),
    )


def _means(terms, mask, per_replica):
    """Returns the mean term over kept examples, the replica's part of it."""
    factors = [
        of_kept(kept, tf.ones_like(kept), per_replica)
        for kept in tf.unstack(tf.cast(mask, tf.float32))
    ]
    means = tf.reduce_mean(tf.stack(factors) * terms, axis=1)
    return means / replicas.num_replicas()


def _variables(networks):
    found = {id(v): v for n in networks for v in n.trainable_variables}
    return list(found.values())


_NEEDED = {
    "labels": lambda batch, y_preds: batch.y,
    "classes": lambda batch, y_preds: traced_class_ids(batch.y),
    "predictions": lambda batch, y_preds: y_preds,
}
NEEDS = tuple(_NEEDED)


def _select(select, single, disagree, needed, per_replica):
    """Returns the mask for the examples of this replica."""
    if per_replica:
        return select(single, disagree, **needed)
    size = tf.shape(single)[1]
    single = tf.transpose(replicas.gather(tf.transpose(single)))
    needed = map_tensors(replicas.gather, needed)
    mask = select(single, replicas.gather(disagree), **needed)
    return tf.transpose(replicas.own_part(tf.transpose(mask), size))
