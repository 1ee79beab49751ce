"""Passes over a batch that tell how each example's weight would change it.

With the weights w as `sample_weight`, s(w) = <grad L(w), u> is linear in w and
ds/dw_j is the alignment of example j's part of the loss with the upper-level
gradient u, exactly.
"""

import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine import calls
from keras_bilevel.engine import gradients
from keras_bilevel.engine import replicas
from keras_bilevel.engine import second_derivatives

# Negligible beside any other weight, in float32, but not 0: deltas survive.
_ALMOST_ZERO = 2.0**-40

# By how much alignments may miss their sum, as a share of the gradient: they
# are sums of rounded products.
_MOST_MISFIT = 1e-4
_MOST_MISFIT_OF_HALF = 0.1

second_derivatives.register()


def most_misfit(network):
    """Returns the largest `misfit` of a pass that is right.

    Args:
        network: `keras.Model`.
    """
    halves = ("float16", "bfloat16")
    is_half = any(
        layer.compute_dtype in halves
        for layer in keras_private.all_layers(network)
    )
    return _MOST_MISFIT_OF_HALF if is_half else _MOST_MISFIT


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
        - `misfit`: Scalar, by how much the alignments miss what they must add
          up to, as a share of the gradient's length. `None` where the sum is
          not known.
    """
    arguments = network, variables, batch, point, judge, scale, is_final
    if not scale.is_active and calls.keeps_rows_apart(network.model):
        return _ByCalls(*arguments)
    return _Double(*arguments)


class _Pass:
    misfit = None

    def _compare(self, alignment, projection, gradient):
        """Notes whether the alignments add up: s(w) = sum_j w_j ds/dw_j.

        Args:
            alignment: Tensor of shape `(source_size,)`, ds/dw.
            projection: Scalar, s(w) = <grad L(w), u>, |u| = 1.
            gradient: List with the gradient of L(w).
        """
        weighed = self._point * alignment
        length = tf.linalg.global_norm([g for g in gradient if g is not None])
        scale = length + tf.reduce_sum(tf.abs(weighed))
        self.misfit = tf.math.divide_no_nan(
            tf.abs(tf.reduce_sum(weighed) - projection), scale
        )

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
        length = _length(judge)
        judge = [None if u is None else u / length for u in judge]
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=not is_final
        ) as self._outer:
            self._outer.watch(point)
            with tf.GradientTape() as inner:
                inner.watch(point)
                self.y_pred, loss = gradients.data_loss(
                    network, gradients.weighted(batch, point)
                )
                scaled = scale.up(loss)
            self._slopes, gradient = inner.gradient(scaled, (point, variables))
            gradients.check_weighed(network, self._slopes)
            # The scale stays in until the second derivative is taken.
            gradient = [_dense(g) for g in gradient]
            projection = _inner_product(gradient, judge)
        try:
            alignment = scale.down(self._outer.gradient(projection, point))
        except LookupError as error:
            raise ValueError(
                "Expected operations that can be differentiated twice. "
                f"Received: {error}. {gradients.suspects(network.model)}"
            ) from error
        self.gradient = [scale.down(g) for g in gradient]
        self.evidence = self.gradient
        # Where examples meet those of other replicas, the sum is over all.
        is_spread = replicas.meet_in(network.model)
        if not (is_spread or gradients.has_other_parts(network)):
            self._compare(alignment, scale.down(projection), self.gradient)
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
            self.y_pred, loss = gradients.data_loss(
                network, gradients.weighted(batch, point)
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
        gradients.check_weighed(network, slopes)
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
            length = _length(judge)
            self._compare(
                alignment / point / length,
                _inner_product(self.gradient, judge) / length,
                self.gradient,
            )
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


def _length(judge):
    """Returns |u|, or 1 where u is 0."""
    length = tf.linalg.global_norm([u for u in judge if u is not None])
    return tf.where(length > 0, length, 1.0)


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
