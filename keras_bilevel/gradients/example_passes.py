"""Passes over a batch that tell how each example's weight would change it.

With the weights w as `sample_weight`, s(w) = <grad L(w), u> is linear in w and
ds/dw_j is the alignment of example j's part of the loss with the upper-level
gradient u, exactly.
"""

import tensorflow as tf

from keras_bilevel.gradients import calls
from keras_bilevel.gradients import losses

# Nothing beside any other weight, in float32, but not 0.
_ALMOST_ZERO = 2.0**-40


def make(network, variables, batch, point, judge, scale, is_final):
    """Passes over the source batch, in the cheapest way that is right.

    Args:
        network: The `Wrapper` of the source network.
        variables: List of the trainable variables.
        batch: The source `Batch`.
        point: Float tensor of shape `(source_size,)`, the weights w.
        judge: List of the tensors of u, `None` outside of theta.
        scale: The `LossScale`.
        is_final: Boolean, whether `point` are the weights of the step.

    Returns:
        A pass, with these attributes and a method `at(weights)`, the gradient
        at other weights:

        - `y_pred`: The predictions.
        - `gradient`: List with the gradient of L(w), `None` where there is
          none. Only where it is final.
        - `evidence`: List of tensors that are finite where the pass is sound,
          and of `None`.
        - `statistics`: Dict of tensors of shape `(source_size,)`.
        - `constant`: Scalar, the part of L that no example's weight changes.
    """
    arguments = network, variables, batch, point, judge, scale, is_final
    if not scale.is_active and calls.keeps_rows_apart(network.model):
        return _ByCalls(*arguments)
    return _Double(*arguments)


class _Pass:
    def _read(self, loss, slopes, alignment):
        """Notes what is known of the examples of a loss that is affine in w.

        Its slopes in the weights are the examples' own losses.
        """
        count = tf.cast(tf.shape(self._point)[0], tf.float32)
        self.statistics = {
            "alignment": alignment * count,
            "loss": slopes * count,
        }
        self.constant = tf.cast(loss, tf.float32) - tf.reduce_sum(
            tf.math.multiply_no_nan(slopes, self._point)
        )


class _Double(_Pass):
    """Double back-propagation, for any network."""

    def __init__(
        self, network, variables, batch, point, judge, scale, is_final
    ):
        self._point = point
        self._variables = variables
        self._scale = scale
        # In float16 the tangents along u would underflow.
        length = tf.linalg.global_norm([u for u in judge if u is not None])
        length = tf.where(length > 0, length, 1.0)
        judge = [None if u is None else u / length for u in judge]
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=not is_final
        ) as self._outer:
            self._outer.watch(point)
            with tf.GradientTape() as inner:
                inner.watch(point)
                self.y_pred, loss = losses.data_loss(
                    network, losses.weighted(batch, point)
                )
                scaled = scale.up(loss)
            self._slopes, gradient = inner.gradient(scaled, (point, variables))
            # The scale stays in until the second derivative is taken.
            gradient = [_dense(g) for g in gradient]
            projection = _inner_product(gradient, judge)
        alignment = scale.down(self._outer.gradient(projection, point))
        self.gradient = [scale.down(g) for g in gradient]
        self.evidence = self.gradient
        self._read(loss, scale.down(self._slopes), alignment * length)

    def at(self, weights):
        """Returns the gradient at other weights: L is affine in them."""
        change = self._outer.gradient(
            self._slopes, self._variables, weights - self._point
        )
        return [
            None if g is None else g + self._scale.down(c)
            for g, c in zip(self.gradient, change)
        ]


class _ByCalls(_Pass):
    """One backward pass, for networks that keep examples apart.

    Example j's alignment is the sum over all calls of layers of
    <delta_j, d call(a_j; theta) / d theta . u>: the backward pass has the
    deltas already, and one more product per layer gives the rest. Double
    back-propagation needs two, and second derivatives of everything in between
    (of max-pooling, on a CPU, they take longer than a convolution).
    """

    def __init__(
        self, network, variables, batch, point, judge, scale, is_final
    ):
        # The deltas of an example that weighs 0 would be lost.
        point = tf.maximum(point, _ALMOST_ZERO)
        self._point = point
        self._variables = variables
        with (
            tf.GradientTape() as tape,
            calls.recorded(network.model, variables) as recorded,
        ):
            tape.watch(point)
            self.y_pred, loss = losses.data_loss(
                network, losses.weighted(batch, point)
            )
        # Asked for together, deltas need not wait in memory for the gradient.
        slopes, deltas, gradient = tape.gradient(
            loss,
            (
                point,
                [call.output for call in recorded],
                variables if is_final else [],
            ),
        )
        self._calls = [
            pair for pair in zip(recorded, deltas) if pair[1] is not None
        ]
        directions = {
            id(v): u for v, u in zip(variables, judge) if u is not None
        }
        alignment = tf.zeros_like(point)
        for call, delta in self._calls:
            tangent = call.tangent(directions)
            if tangent is not None:
                alignment += _products_of_rows(delta, tangent)
        if is_final:
            self.gradient = [scale.down(g) for g in gradient]
            self.evidence = self.gradient
        else:
            self.evidence = [delta for _, delta in self._calls]
        self._read(loss, slopes, alignment / point)

    def at(self, weights):
        """Returns the gradient at other weights: deltas are linear in them."""
        factors = weights / self._point
        parts = [
            (call, call.gradient(_scale_rows(delta, factors)))
            for call, delta in self._calls
        ]
        return calls.summed(parts, self._variables)


def _scale_rows(tensor, factors):
    shape = (-1, *[1] * (len(tensor.shape) - 1))
    return tensor * tf.cast(tf.reshape(factors, shape), tensor.dtype)


def _products_of_rows(a, b):
    return tf.reduce_sum(
        tf.cast(a, tf.float32) * tf.cast(b, tf.float32),
        axis=list(range(1, len(a.shape))),
    )


def _inner_product(a, b):
    return tf.add_n(
        [
            tf.reduce_sum(x * y)
            for x, y in zip(a, b)
            if x is not None and y is not None
        ]
    )


def _dense(gradient):
    if gradient is None:
        return None
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)
