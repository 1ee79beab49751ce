"""One gradient for several networks, each from the examples picked for it.

Every network makes one forward pass. Its losses of single examples are the
derivatives of its loss in sample weights of one; the rule ranks them, and the
same predictions are weighed once more with what it picked.
"""

import dataclasses

import tensorflow as tf

from keras_bilevel.gradients import losses
from keras_bilevel.gradients import replicas
from keras_bilevel.gradients import state
from keras_bilevel.gradients.bad_examples import without_bad
from keras_bilevel.gradients.step import Step
from keras_bilevel.gradients.structure import map_tensors
from keras_bilevel.gradients.structure import tensors


def walk(networks, select, disagree, batch, scale, per_replica=False):
    """Selects examples for each network and takes the gradient of all.

    Args:
        networks: List of networks, each in a built and compiled `Wrapper`.
        select: Function from losses of shape `(networks, batch_size)` and
            `disagree`'s tensor to a boolean tensor of the shape of losses.
        disagree: Function from the list of predictions to a boolean tensor of
            shape `(batch_size,)`.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`.
        per_replica: Boolean, whether to select on each replica apart, or
            among the examples of all.

    Returns:
        A `Step`; its weights, of shape `(networks, batch_size)`, are 1 where
        a network learns from an example and 0 elsewhere, its losses those of
        each network, its predictions a list.
    """
    moving = state.moving_statistics(*networks)
    before = state.read(moving)
    good = True
    for network in networks:
        batch, is_own = without_bad(network, batch, scale)
        good &= is_own
    with tf.GradientTape() as tape:
        y_preds = [losses.predictions(network, batch.x) for network in networks]
        with tape.stop_recording():
            single = tf.stack(
                [_losses(*pair, batch) for pair in zip(networks, y_preds)]
            )
            is_finite = _are_finite(single)
            usable = good & is_finite & _is_there(batch)
            single = tf.where(usable, single, float("inf"))
            mask = _select(select, single, disagree(y_preds), per_replica)
            factors = _mean_over_kept(mask, per_replica)
        means = tf.stack(
            [
                losses.loss(network, losses.weighted(batch, row), y_pred)
                for network, y_pred, row in zip(
                    networks, y_preds, tf.unstack(factors)
                )
            ]
        )
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
        dropped=~(good & is_finite & healthy),
        batch=batch,
        y_pred=y_preds,
    )


def _variables(networks):
    found = {id(v): v for n in networks for v in n.trainable_variables}
    return list(found.values())


def _losses(network, y_pred, batch):
    """Returns the loss of each example, without the user's weight for it."""
    batch = dataclasses.replace(
        batch, sample_weight=map_tensors(_presence, batch.sample_weight)
    )
    ones = tf.ones(tf.shape(tensors(batch.y)[0])[:1])
    with tf.GradientTape() as tape:
        tape.watch(ones)
        loss = losses.loss(network, losses.weighted(batch, ones), y_pred)
    return tf.cast(tape.gradient(loss, ones), tf.float32)


def _presence(sample_weight):
    """Returns 0 or 1 for one number per example; others are part of the loss.

    An example that counts less is no easier than another one.
    """
    if len(sample_weight.shape) > 1:
        return sample_weight
    return tf.cast(sample_weight != 0, tf.float32)


def _is_there(batch):
    """Returns where not all weights of an example are 0, `(batch_size,)`."""
    parts = tensors(batch.sample_weight)
    if not parts:
        return True
    nonzero = [tf.reshape(w != 0, (tf.shape(w)[0], -1)) for w in parts]
    return tf.reduce_any(tf.concat(nonzero, 1), 1)


def _are_finite(single):
    return tf.reduce_all(tf.math.is_finite(single), axis=0)


def _select(select, single, disagree, per_replica):
    """Returns the mask for the examples of this replica."""
    if per_replica:
        return select(single, disagree)
    size = tf.shape(single)[1]
    single = tf.transpose(replicas.gather(tf.transpose(single)))
    disagree = replicas.gather(tf.cast(disagree, tf.float32)) > 0
    mask = select(single, disagree)
    return tf.transpose(replicas.own_part(tf.transpose(mask), size))


def _mean_over_kept(mask, per_replica):
    """Returns factors that turn a mean over all into one over the kept."""
    kept = tf.cast(mask, tf.float32)
    count = tf.reduce_sum(kept, axis=1, keepdims=True)
    size = tf.cast(tf.shape(mask)[1], tf.float32)
    if not per_replica:
        count = replicas.reduce_sum(count)
        size *= replicas.num_replicas()
    return kept * size / tf.maximum(count, 1.0)
