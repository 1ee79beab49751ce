"""Passes over a source batch that compute the alignment of each example.

With the weights w as `sample_weight`, s(w) = <grad L(w), u> is linear in w. So
ds/dw_j is exactly the alignment of example j: the inner product of the
upper-level gradient u with the gradient of example j's part of the loss.
"""

import collections

import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.data.batches import per_row
from keras_bilevel.engine import affine
from keras_bilevel.engine import losses
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import calls
from keras_bilevel.engine.tensorflow import gradients
from keras_bilevel.engine.tensorflow import known_layers
from keras_bilevel.engine.tensorflow import replicas
from keras_bilevel.engine.tensorflow import second_derivatives
from keras_bilevel.engine.tensorflow import shard_norms

# Negligible in float32 beside any other weight. Not 0, so that the deltas of
# the example survive.
_ALMOST_ZERO = 2.0**-40

second_derivatives.register()


def target_gradient(model, part, scale):
    """Differentiates the loss of a target batch.

    Args:
        model: A `BilevelModel`.
        part: Tuple `(x, y, sample_weight)`.
        scale: The `LossScale`.

    Returns:
        Tuple of what `losses.data_gradient` returns, and of a dict from a layer
        to the `Factors` of its gradient. They are there where they are smaller
        than the gradient, and where the layer is called once.
    """
    # The factors of several replicas do not add up.
    if not _goes_by_calls(model, scale) or replicas.num_replicas() > 1:
        return *losses.data_gradient(model, part, scale), {}
    variables = model.trainable_variables
    with (
        tf.GradientTape() as tape,
        calls.recorded(model.model, variables) as recorded,
    ):
        y_pred, loss = losses.data_loss(model, part)
    gradient, deltas = tape.gradient(
        loss, (variables, [call.output for call in recorded])
    )
    times = collections.Counter(
        id(variable) for call in recorded for variable in call.variables
    )
    factors = {}
    for call, delta in zip(recorded, deltas):
        if delta is None or any(times[id(v)] > 1 for v in call.variables):
            continue
        found = at_once.Factors.of(call, delta[None])
        if found is not None and found.are_smaller():
            factors[call.layer] = found
    return y_pred, loss, [gradients.dense(g) for g in gradient], factors


def make(network, variables, batch, point, judge, factors, scale, is_final):
    """Makes the cheapest pass over the source batch that is exact.

    Args:
        network: The `Wrapper` of the source network.
        variables: List of the trainable variables.
        batch: The source `Batch`.
        point: Float tensor of shape `(source_size,)`, the weights w.
        judge: List with the upper-level gradient u, a tensor for each variable
            in theta and `None` for the others.
        factors: Dict from a layer to the `Factors` of its part of u, see
            `target_gradient`.
        scale: The `LossScale`.
        is_final: Boolean, whether `point` holds the final weights of the step.
            If not, call `at` for the gradient.

    Returns:
        A pass. Its method `at(weights)` returns the gradient at other weights,
        unless `is_final`. Its attributes are:

        - `y_pred`: The predictions.
        - `gradient`: List with the gradient of L(w), `None` for variables that
          the loss does not reach. Only guaranteed if `is_final`.
        - `evidence`: List of tensors and `None`. The pass is usable if all
          tensors are finite.
        - `statistics`: Dict of `alignment` and `loss`, tensors of shape
          `(source_size,)`.
        - `constant`: Scalar, the part of L that does not depend on w.
        - `misfit`: Scalar, the distance of sum_j w_j ds/dw_j from s(w),
          relative to the norm of the gradient. `None` if s(w) is not known.
    """
    arguments = network, variables, batch, point, judge
    if _goes_by_calls(network, scale):
        return _ByCalls(*arguments, factors, is_final)
    return _Double(*arguments, scale, is_final)


def _goes_by_calls(network, scale):
    """Returns whether the calls of layers tell the parts of all examples."""
    layers = keras_private.all_layers(network.model)
    # In float16 deltas of almost no weight would underflow.
    has_float16 = any(layer.compute_dtype == "float16" for layer in layers)
    keeps_apart = known_layers.keeps_rows_apart(network.model)
    return keeps_apart and not scale.is_active and not has_float16


class _Double(affine.AffinePass):
    """Double back-propagation, for any network."""

    def __init__(
        self, network, variables, batch, point, judge, scale, is_final
    ):
        self._point = point
        self._variables = variables
        self._scale = scale
        # u is scaled to length 1: in float16 the derivatives along a short u
        # would underflow.
        length = affine.length_or_one(judge)
        judge = [None if u is None else u / length for u in judge]
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=not is_final
        ) as self._outer:
            self._outer.watch(point)
            with (
                tf.GradientTape() as inner,
                shard_norms.fast_batch_norm(network.model),
            ):
                inner.watch(point)
                self.y_pred, loss = losses.data_loss(
                    network, losses.weighted(batch, point)
                )
                scaled = scale.up(loss)
            self._slopes, gradient = inner.gradient(scaled, (point, variables))
            losses.check_weighed(network, self._slopes)
            # The loss scale is divided out only after the second derivative.
            gradient = [gradients.dense(g) for g in gradient]
        pairs = [
            (g, u)
            for g, u in zip(gradient, judge)
            if g is not None and u is not None
        ]
        try:
            alignment = scale.down(
                # ds/dw, of s(w) = <grad L(w), u>.
                self._outer.gradient(
                    [g for g, _ in pairs],
                    point,
                    output_gradients=[u for _, u in pairs],
                )
            )
        except LookupError as error:
            raise ValueError(
                "Expected operations that can be differentiated twice. "
                f"Received: {error}. {losses.suspects(network.model)}"
            ) from error
        self.gradient = [scale.down(g) for g in gradient]
        self.evidence = self.gradient
        # Synchronised layers mix the examples of all replicas. Then the
        # alignments of one replica do not add up to its own s(w).
        is_spread = replicas.meet_in(network.model)
        if not (is_spread or losses.has_other_parts(network)):
            projection = affine.inner_product(self.gradient, judge)
            self._set_misfit(alignment, projection, self.gradient)
        self._set_statistics(loss, scale.down(self._slopes), alignment * length)

    def at(self, weights):
        """Returns the gradient at other weights, in which L is affine."""
        change = self._outer.gradient(
            self._slopes, self._variables, weights - self._point
        )
        # No example's weight moves a variable that only `add_loss` reaches.
        return [
            g if c is None else g + self._scale.down(c)
            for g, c in zip(self.gradient, change)
        ]


class _ByCalls(affine.AffinePass):
    """One backward pass, for networks in which no layer mixes examples.

    Example j's alignment is <delta_j, d call(a_j; theta) / d theta . u>, summed
    over all layer calls. The backward pass yields the deltas, and one more
    product per layer yields the rest. Double back-propagation needs two
    products per layer, and second derivatives of everything in between. (On a
    CPU, those of max-pooling take longer than a convolution.)
    """

    def __init__(
        self, network, variables, batch, point, judge, factors, is_final
    ):
        # A weight of 0 would lose the deltas of its example.
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
        # One call for all of them, so that deltas need not be kept in memory
        # until a second backward pass.
        slopes, deltas, gradient = tape.gradient(
            loss,
            (
                point,
                [call.output for call in recorded],
                variables if is_final else [],
            ),
        )
        losses.check_weighed(network, slopes)
        self._calls = [
            pair for pair in zip(recorded, deltas) if pair[1] is not None
        ]
        directions = {
            id(v): u for v, u in zip(variables, judge) if u is not None
        }
        alignment = sum(
            (
                _products(call, delta, directions, factors)
                for call, delta in self._calls
            ),
            start=tf.zeros_like(point),
        )
        if is_final:
            self.gradient = [gradients.dense(g) for g in gradient]
            self.evidence = self.gradient
            length = affine.length_or_one(judge)
            self._set_misfit(
                alignment / point / length,
                affine.inner_product(self.gradient, judge) / length,
                self.gradient,
            )
        else:
            self.evidence = [delta for _, delta in self._calls]
        self._set_statistics(loss, slopes, alignment / point)

    def at(self, weights):
        """Returns the gradient at other weights, in which deltas are linear."""
        factors = weights / self._point

        def moved(delta):
            return delta * tf.cast(per_row(factors, delta), delta.dtype)

        parts = [(c, c.gradient(moved(delta))) for c, delta in self._calls]
        return calls.summed(parts, self._variables)


def _products(call, delta, directions, factors):
    """Returns the part of a call in the alignment of each example."""
    if call.layer in factors and delta.shape[0] is not None:
        own = at_once.Factors.of(call, delta)
        return own.products(factors[call.layer])
    tangent = call.tangent(directions)
    if tangent is None:
        return 0.0
    return tf.reduce_sum(
        tf.cast(delta, tf.float32) * tf.cast(tangent, tf.float32),
        axis=list(range(1, len(delta.shape))),
    )
