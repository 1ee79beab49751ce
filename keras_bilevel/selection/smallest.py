"""The small-loss examples of a batch, by rank and mask."""

from keras import ops


def smallest(losses, share):
    """Marks the share of examples with the smallest losses.

    Of n examples `ceil(share * n)` are kept, those with the smallest losses;
    equal losses are kept in their order. An example with an infinite loss is
    neither counted nor kept. All shapes are static.

    Args:
        losses: Float tensor of shape `(..., batch_size)`.
        share: Scalar in [0, 1].

    Returns:
        Boolean tensor of the shape of `losses`.

    Example:

    >>> kb.selection.smallest(np.array([0.3, 0.1, np.inf, 0.2]), 0.5).numpy()
    array([False,  True, False,  True])
    """
    is_there = ops.isfinite(losses)
    count = ops.sum(ops.cast(is_there, "float32"), axis=-1, keepdims=True)
    kept = num_kept(share, count)
    rank = ops.argsort(ops.argsort(losses, axis=-1), axis=-1)
    return is_there & (ops.cast(rank, "float32") < kept)


def num_kept(share, count):
    """Returns how many of `count` examples a share is, `ceil(share * count)`.

    Args:
        share: Scalar in [0, 1].
        count: Float tensor of any shape.
    """
    # A share such as 0.55 is not exact in float32: 0.55 * 100 is above 55.
    rounding = ops.maximum(1e-6, 2e-7 * count)
    return ops.ceil(share * count - rounding)
