"""Passes over a source batch that compute the alignment of each example.

With the weights w as `sample_weight`, L is affine in w, so that dL/dw_j does
not depend on w. Its derivative along the upper-level gradient u is the
alignment of example j. In forward mode that takes one pass, for any network.
"""

import jax

from keras_bilevel.data.batches import set_masks
from keras_bilevel.engine import affine
from keras_bilevel.engine import losses
from keras_bilevel.engine.jax import gradients
from keras_bilevel.engine.jax import scope


def target_gradient(model, part, scale):
    """See `engine/tensorflow/alignments.py`. There are no `Factors`."""
    return *losses.data_gradient(model, part, scale), {}


def make(network, variables, batch, point, judge, factors, scale, is_final):
    """Makes a pass over the source batch.

    Args:
        network: The `Wrapper` of the source network.
        variables: List of the trainable variables.
        batch: The source `Batch`.
        point: Float tensor of shape `(source_size,)`, the weights w.
        judge: List with the upper-level gradient u, a tensor for each variable
            in theta and `None` for the others.
        factors: An empty dict.
        scale: The `LossScale`.
        is_final: Boolean, whether `point` holds the final weights of the step.
            If not, call `at` for the gradient.

    Returns:
        A pass, see `engine/tensorflow/alignments.py`.
    """
    return _Forward(network, variables, batch, point, judge, scale, is_final)


class _Forward(affine.AffinePass):
    """A pass in forward mode, and one backward for the gradient."""

    def __init__(
        self, network, variables, batch, point, judge, scale, is_final
    ):
        self._network = network
        self._variables = variables
        self._batch = batch
        self._point = point
        self._scale = scale
        # A gradient at other weights has to begin with the same state, and so
        # with the same dropout.
        self._before = scope.values()
        length = affine.length_or_one(judge)
        theta = [v for v, u in zip(variables, judge) if u is not None]
        along = [u / length for u in judge if u is not None]
        slopes, alignment, loss, self.y_pred = self._derive(theta, along)
        self._set_statistics(loss, slopes, alignment * length)
        self.evidence = [slopes]
        if is_final:
            self.gradient = self.evidence = self.at(point)
            if not self._has_other_parts:
                projection = affine.inner_product(self.gradient, judge)
                self._set_misfit(alignment, projection / length, self.gradient)

    def at(self, weights):
        """Returns the gradient at other weights."""
        run = gradients.Traced(
            lambda: (self._scale.up(self._loss(self._call(), weights)), None),
            self._variables,
            self._before,
        )
        gradient, _ = jax.grad(run, has_aux=True)(run.point())
        return [self._scale.down(g) for g in gradient]

    def _derive(self, theta, along):
        """Returns dL/dw, its derivative along u, L and the predictions."""
        run = gradients.Traced(self._slopes, theta)
        point = run.point()
        along = [u.astype(p.dtype) for u, p in zip(along, point)]
        if gradients.is_forward(lambda values: run(values)[0], point):
            slopes, alignment, (found, changes) = jax.jvp(
                run, (point,), (along,), has_aux=True
            )
        else:
            slopes, (found, changes) = run(point)
            alignment = self._in_reverse(theta, along)
        run.keep(changes)
        return slopes, alignment, *set_masks(*found)

    def _slopes(self):
        """Returns dL/dw, and both L and the predictions."""
        y_pred = self._call()
        slopes = gradients.slopes(
            lambda weights: self._loss(y_pred, weights), self._point
        )
        losses.check_weighed(self._network, slopes)
        self._has_other_parts = losses.has_other_parts(self._network)
        return slopes, (self._loss(y_pred, self._point), y_pred)

    def _in_reverse(self, theta, along):
        """Returns the derivative of <grad L(w), u> in w."""

        def projection(weights):
            run = gradients.Traced(
                lambda: (self._loss(self._call(), weights), None),
                theta,
                self._before,
            )
            gradient, _ = jax.grad(run, has_aux=True)(run.point())
            return affine.inner_product(gradient, along)

        return jax.grad(projection)(self._point)

    def _call(self):
        with losses.data_losses_only():
            return self._network(self._batch.x, training=True)

    def _loss(self, y_pred, weights):
        part = losses.weighted(self._batch, weights)
        return losses.data_loss_of(self._network, part, y_pred)
