"""How far a network believes the label that was given: higher is better."""

from keras import ops

from keras_bilevel.callbacks import labels
from keras_bilevel.engine.compiled_losses import check_numbers


def of_batch(output, usable=True):
    """Returns the probability of each given label, or else the loss.

    Args:
        output: An `engine.compiled_losses.OutputLoss`.
        usable: Boolean tensor of shape `(batch_size,)`. Defaults to `True`.

    Returns:
        Tuple of a float32 tensor of shape `(batch_size,)`, NaN where nothing
        counts, and whether it is losses, of which `ranked` makes scores.
    """
    check_numbers(output)
    values = labels.given_probability(output)
    are_losses = values is None
    if are_losses:
        values, _, _ = output.terms
    means = labels.example_means(output, values)
    return ops.where(usable, means, float("nan")), are_losses


def ranked(losses):
    """Returns the share of a batch with a higher loss, ties and itself half.

    Args:
        losses: Float tensor of shape `(batch_size,)`. What is not finite is
            not in the batch.

    Returns:
        Float tensor in (0, 1) of the same shape, NaN where losses are not
        finite.
    """
    there = ops.isfinite(losses)
    ascending = ops.sort(ops.where(there, losses, float("inf")))
    lower = ops.searchsorted(ascending, losses, side="left")
    not_higher = ops.searchsorted(ascending, losses, side="right")
    place = ops.cast(lower + not_higher, losses.dtype) / 2.0
    count = ops.sum(ops.cast(there, losses.dtype))
    return ops.where(there, 1.0 - place / count, float("nan"))


def check_probability(are_ranks, watcher):
    """Raises `ValueError` for scores that are no probabilities."""
    if are_ranks:
        raise ValueError(
            "Expected a cross-entropy of `keras.losses` for "
            f"`{type(watcher).__name__}.given_probability`. Received: a loss "
            "of which predictions are not known to be probabilities. Use "
            "`example_scores`, made of the ranks of the loss, or compile with "
            "a loss such as `keras.losses.SparseCategoricalCrossentropy("
            "from_logits=True)` in place of a function of your own."
        )
