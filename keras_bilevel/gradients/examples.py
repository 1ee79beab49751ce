"""One weighted gradient from single examples, by double back-propagation.

With the weights w as `sample_weight`, s(w) = <grad L(w), u> is linear in w and
ds/dw_j is the alignment of example j's part of the loss with the upper-level
gradient u, exactly. No gradient of a single example is ever stored.
"""

import tensorflow as tf

from keras_bilevel.gradients import losses
from keras_bilevel.gradients import replicas
from keras_bilevel.gradients import state
from keras_bilevel.gradients.normalize import finite_or_zero
from keras_bilevel.gradients.normalize import normalizer
from keras_bilevel.gradients.step import Step
from keras_bilevel.gradients.structure import tensors


def walk(model, weighting, upper, lower, scale):
    """Weighs the examples of a batch by their alignment with another batch.

    Args:
        model: A built `BilevelModel`.
        weighting: A `Weighting` whose unit is the example.
        upper: The target `Batch` of shape `(target_size, ...)`.
        lower: The source `Batch` of shape `(source_size, ...)`.
        scale: The `LossScale`.

    Returns:
        A `Step`.
    """
    variables = model.trainable_variables
    moving = state.moving_statistics(model)
    before = state.read(moving)
    part = (upper.x, upper.y, upper.sample_weight)
    _, upper_loss, judge = losses.data_gradient(model, part, scale)
    judge = replicas.reduce_sum(_filled(judge, variables))
    remembered = weighting.recall(lower.ids)
    point = _ones(lower) if remembered is None else remembered[0]
    count = tf.cast(tf.shape(point)[0], tf.float32)

    with tf.GradientTape(persistent=True) as outer:
        outer.watch(point)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(point)
            y_pred, loss = losses.data_loss(model, _weighted(lower, point))
            scaled = scale.up(loss)
        # L(w) is linear in w, so its slopes are the examples' own losses.
        slopes = scale.down(inner.gradient(scaled, point))
        gradient = _filled(inner.gradient(scaled, variables), variables)
        gradient = [scale.down(g) for g in gradient]
        projection = tf.add_n(
            [tf.reduce_sum(g * u) for g, u in zip(gradient, judge)]
        )
    # An example that is not finite weighs nothing and is not remembered.
    statistics = {
        "alignment": finite_or_zero(
            outer.gradient(projection, point)[None] * count
        ),
        "loss": finite_or_zero(slopes[None] * count),
    }
    if remembered is None:
        weights = _weigh(weighting, statistics)
        pull = weights[0] * (count if weighting.l1_normalize else 1.0)
        gradient = _filled(outer.gradient(slopes, variables, pull), variables)
    else:
        weights = remembered

    healthy = state.all_finite(gradient) & ~state.spoiled(moving, before)
    state.restore_unless(healthy, moving, before)
    parts = tf.stack([upper_loss, tf.reduce_mean(statistics["loss"])])
    return Step(
        variables=variables,
        gradients=[scale.mask(healthy, g) for g in gradient],
        weights=weights,
        losses=tf.where(healthy, parts, 0.0),
        dropped=~tf.fill([2], healthy),
        batch=lower,
        y_pred=y_pred,
        statistics=statistics,
    )


def _weigh(weighting, statistics):
    weights = weighting.call(
        **{name: statistics[name] for name in weighting.statistics}
    )
    return weights * normalizer(weighting, weights)[:, None]


def _weighted(batch, point):
    user = batch.sample_weight
    return batch.x, batch.y, point if user is None else user * point


def _ones(batch):
    return tf.ones(tf.shape(tensors(batch.x)[0])[:1])


def _filled(gradient, variables):
    return [
        tf.zeros(v.shape) if g is None else tf.convert_to_tensor(g)
        for g, v in zip(gradient, variables)
    ]
