"""One gradient for several networks, each from the examples picked for it.

Every network makes one forward pass. The rule ranks the losses of single
examples, and the same predictions are weighed once more with what it picked.
"""

import tensorflow as tf

from keras_bilevel.data.labels import traced_class_ids
from keras_bilevel.engine import losses
from keras_bilevel.engine import replicas
from keras_bilevel.engine import state
from keras_bilevel.engine.bad_examples import without_bad
from keras_bilevel.engine.ranking import ExampleLosses
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.structure import map_tensors


def walk(networks, select, disagree, batch, scale, per_replica=False, needs=()):
    """Selects examples for each network and takes the gradient of all.

    Args:
        networks: List of networks, each in a built and compiled `Wrapper`.
        select: Function from losses of shape `(networks, batch_size)`,
            `disagree`'s tensor and what it needs, by name, to a boolean
            tensor of the shape of losses.
        disagree: Function from the list of predictions, and from what
            `disagreement` takes as `counts`, to a boolean tensor of shape
            `(batch_size,)`.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`.
        per_replica: Boolean, whether to select on each replica apart, or
            among the examples of all.
        needs: Tuple of names out of those that `kb.selection.Rule` lists.

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
                losses.loss(network, part, y_pred)
                for network, part, y_pred in zip(networks, parts, y_preds)
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
        has_loss=tf.reduce_any(mask, axis=1) & healthy,
        dropped=~(good & is_finite & healthy),
        batch=batch,
        y_pred=y_preds,
        shown=(batch.y, y_preds[0], parts[0][2]),
    )


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
