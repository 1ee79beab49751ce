"""One weighted gradient from single examples, by double back-propagation.

With the weights w as `sample_weight`, s(w) = <grad L(w), u> is linear in w and
ds/dw_j is the alignment of example j's part of the loss with the upper-level
gradient u, exactly. No gradient of a single example is ever stored. Networks
of which that is known take the shorter way of `taps`.
"""

import tensorflow as tf

from keras_bilevel.gradients import losses
from keras_bilevel.gradients import replicas
from keras_bilevel.gradients import state
from keras_bilevel.gradients import taps
from keras_bilevel.gradients.bad_examples import without_bad
from keras_bilevel.gradients.normalize import finite_or_zero
from keras_bilevel.gradients.normalize import normalizer
from keras_bilevel.gradients.step import Step
from keras_bilevel.gradients.step import Upper
from keras_bilevel.weighting.weighting import Weighting

# Nothing beside any other weight, in float32, but not 0.
_ALMOST_ZERO = 2.0**-40


def walk(model, weighting, upper, lower, scale):
    """Weighs the examples of a source batch by a target batch's gradient.

    All gradients are taken at the same point. What the source network has
    follows its weighted loss, what only the target network has follows the
    target's loss.

    Args:
        model: A built `BilevelModel`.
        weighting: A `Weighting` whose unit is the example.
        upper: The target `Batch` of shape `(target_size, ...)`.
        lower: The source `Batch` of shape `(source_size, ...)`.
        scale: The `LossScale`.

    Returns:
        A `Step`.
    """
    network = model.get_source()
    variables = model.trainable_variables
    of_source = _ids(network.model)
    theta = of_source & _ids(model.model)
    moving = state.moving_statistics(model, network)
    before = state.read(moving)
    learning_rate = tf.convert_to_tensor(model.optimizer.learning_rate)

    parts = (upper.x, upper.y, upper.sample_weight)
    y_pred, loss, own = losses.data_gradient(model, parts, scale)
    # All replicas' targets judge together.
    judge = replicas.reduce_mean(
        [
            g if g is not None and id(v) in theta else None
            for g, v in zip(own, variables)
        ]
    )
    lower, good = without_bad(network, lower, scale)
    weights = None
    if not weighting.update_weights_first:
        weights = weighting.recall(lower.ids)
    is_known = weights is not None
    point = tf.where(good, weights[0] if is_known else 1.0, 0.0)
    source = _Pass(network, variables, lower, point, judge, scale, is_known)

    healthy = state.all_finite(
        [g for g in [*own, *source.gradient] if g is not None]
    )
    healthy &= ~state.spoiled(moving, before)
    # A bad target, or a bad gradient, on one replica spoils the step of all.
    healthy = replicas.on_all(healthy)
    state.restore_unless(healthy, moving, before)
    # What is not finite is neither weighed nor remembered.
    usable = healthy & good
    statistics = {
        name: tf.where(usable, finite_or_zero(value), 0.0)[None]
        for name, value in source.statistics.items()
    }
    if _remembers(weighting):
        weighting.update(
            replicas.gather(lower.ids),
            {
                name: replicas.gather(statistics[name][0])[None]
                for name in weighting.statistics
            },
            learning_rate,
        )
    gradient = source.gradient
    if not is_known:
        weights = weighting.recall(lower.ids)
        if weights is None:
            weights = _weigh(weighting, statistics)
        gradient = source.at(
            _per_mean(weighting, tf.where(usable, weights[0], 0.0))
        )
    lower_share = 1.0 if weighting.l1_normalize else replicas.num_replicas()
    gradient = [
        _divide(g, lower_share)
        if id(v) in of_source
        else _divide(o, replicas.num_replicas())
        for g, o, v in zip(gradient, own, variables)
    ]
    return Step(
        variables=variables,
        gradients=[
            None if g is None else scale.mask(healthy, g) for g in gradient
        ],
        weights=tf.where(usable, weights, 0.0),
        losses=statistics["loss"][0] + tf.where(healthy, source.constant, 0.0),
        dropped=~usable,
        batch=lower,
        y_pred=source.y_pred,
        upper=Upper(
            batch=upper,
            y_pred=y_pred,
            loss=tf.where(healthy, tf.cast(loss, tf.float32), 0.0),
        ),
    )


def _remembers(weighting):
    return type(weighting).update is not Weighting.update


class _Pass:
    """A pass over the source batch, and how it depends on the weights.

    Args:
        network: The `Wrapper` of the source network.
        variables: List of the trainable variables.
        batch: The source `Batch`.
        point: Float tensor of shape `(source_size,)`, the weights w.
        judge: List of the tensors of u, `None` outside of theta.
        scale: The `LossScale`.
        is_final: Boolean, whether `point` are the weights of the step.

    Attributes:
        y_pred: The predictions.
        gradient: List with the gradient of L(w), `None` where there is none.
        statistics: Dict of tensors of shape `(source_size,)`.
        constant: Scalar, the part of L that no example's weight changes.
    """

    def __init__(
        self, network, variables, batch, point, judge, scale, is_final
    ):
        self._variables = variables
        self._scale = scale
        count = tf.cast(tf.shape(point)[0], tf.float32)
        # In float16 the tangents along u would underflow.
        length = tf.linalg.global_norm([u for u in judge if u is not None])
        length = tf.where(length > 0, length, 1.0)
        judge = [None if u is None else u / length for u in judge]
        can_tap = not scale.is_active and taps.can_tap(network.model)
        if can_tap:
            # The deltas of an example that weighs 0 would be lost.
            point = tf.maximum(point, _ALMOST_ZERO)
        self._point = point

        with tf.GradientTape(
            persistent=True, watch_accessed_variables=not is_final
        ) as self._outer:
            self._outer.watch(point)
            with (
                tf.GradientTape() as inner,
                taps.tapped(
                    network.model, _by_id(variables, judge) if can_tap else {}
                ) as tapped,
            ):
                inner.watch(point)
                self.y_pred, loss = losses.data_loss(
                    network, losses.weighted(batch, point)
                )
                scaled = scale.up(loss)
            # L(w) is affine in w, so its slopes are the examples' own losses.
            (self._slopes,), gradient, deltas = inner.gradient(
                scaled, ([point], variables, [output for output, _ in tapped])
            )
            # The scale stays in until the second derivative is taken.
            gradient = [_dense(g) for g in gradient]
            # A loss may have gone around a layer's output.
            can_tap = can_tap and all(d is not None for d in deltas)
            if not can_tap:
                projection = _inner_product(gradient, judge)
        if can_tap:
            alignment = taps.contract(tapped, deltas) / point
        else:
            alignment = scale.down(self._outer.gradient(projection, point))
        self.gradient = [scale.down(g) for g in gradient]
        slopes = scale.down(self._slopes)
        self.statistics = {
            "alignment": alignment * length * count,
            "loss": slopes * count,
        }
        self.constant = tf.cast(loss, tf.float32) - tf.reduce_sum(
            tf.math.multiply_no_nan(slopes, point)
        )

    def at(self, weights):
        """Returns the gradient at other weights: L is affine in them."""
        change = self._outer.gradient(
            self._slopes, self._variables, weights - self._point
        )
        return [
            None if g is None else g + self._scale.down(c)
            for g, c in zip(self.gradient, change)
        ]


def _by_id(variables, values):
    pairs = zip(variables, values)
    return {id(v): value for v, value in pairs if value is not None}


def _inner_product(a, b):
    return tf.add_n(
        [
            tf.reduce_sum(x * y)
            for x, y in zip(a, b)
            if x is not None and y is not None
        ]
    )


def _ids(network):
    return {id(variable) for variable in network.trainable_variables}


def _weigh(weighting, statistics):
    weights = weighting.call(
        **{name: statistics[name] for name in weighting.statistics}
    )
    return weights * normalizer(weighting, weights)[:, None]


def _per_mean(weighting, weights):
    """Returns weights as factors in a mean, where they are parts of a sum."""
    if not weighting.l1_normalize:
        return weights
    return weights * tf.cast(tf.shape(weights)[0], tf.float32)


def _dense(gradient):
    if gradient is None:
        return None
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def _divide(gradient, count):
    return gradient if gradient is None or count == 1 else gradient / count
