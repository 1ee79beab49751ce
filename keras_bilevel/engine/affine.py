"""What follows from a loss that is affine in the weights of examples."""

from keras import ops

from keras_bilevel.engine.backend import gradients


class AffinePass:
    """A pass over a source batch, with a loss that is affine in its weights.

    Attributes:
        misfit: See `alignments.make`.
    """

    misfit = None

    def _set_misfit(self, alignment, projection, gradient):
        """Sets `misfit`, how far s(w) is from sum_j w_j ds/dw_j.

        Args:
            alignment: Tensor of shape `(source_size,)`, ds/dw.
            projection: Scalar, s(w) = <grad L(w), u> with |u| = 1.
            gradient: List with the gradient of L(w).
        """
        weighed = self._point * alignment
        length = length_of(gradient)
        scale = length + ops.sum(ops.abs(weighed))
        self.misfit = ops.divide_no_nan(
            ops.abs(ops.sum(weighed) - projection), scale
        )

    def _set_statistics(self, loss, slopes, alignment):
        """Sets `statistics` and `constant`.

        The loss is affine in w. So its derivatives dL/dw_j, the slopes, are the
        losses of the examples divided by their number.
        """
        count = ops.cast(ops.shape(self._point)[0], "float32")
        self.statistics = {
            "alignment": alignment * count,
            "loss": slopes * count,
        }
        # A weight of 0 excludes a loss that is not finite.
        parts = ops.where(self._point != 0, slopes * self._point, 0.0)
        self.constant = ops.cast(loss, "float32") - ops.sum(parts)


def length_of(gradient):
    """Returns the norm of a list of tensors; `None` counts as 0.

    It is not finite if one of them is not, or if their squares overflow. (It
    costs less to see that here than entry by entry.)
    """
    return ops.sqrt(inner_product(gradient, gradient))


def length_or_one(judge):
    """Returns |u|, or 1 where u is 0."""
    length = length_of(judge)
    return ops.where(length > 0, length, 1.0)


def inner_product(a, b):
    """Returns the inner product of two lists of tensors and `None`."""
    products = [
        gradients.inner_product(x, y)
        for x, y in zip(a, b)
        if x is not None and y is not None
    ]
    return sum(products, start=ops.zeros((), "float32"))
