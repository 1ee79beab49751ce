"""What predictions made in training say of each label, summed over visits.

A visit is a prediction for an example in training, or after an epoch of it.
Nothing but sums is kept: a step adds rows, and a table divides by visits.
"""

import numpy as np
from keras import ops

from keras_bilevel.callbacks import agreement
from keras_bilevel.engine.compiled_losses import check_per_number
from keras_bilevel.extras import import_extra

# What is summed over visits, the columns of `sums`.
SUMMED = ("score", "squared", "loss", "correct", "margin", "forgotten")


def of_batch(output, usable=True):
    """Returns what one batch of predictions says of its labels.

    Args:
        output: An `engine.compiled_losses.OutputLoss`.
        usable: Boolean tensor of shape `(batch_size,)`. Defaults to `True`.

    Returns:
        Tuple of a float32 tensor of shape `(batch_size, 4)` and a boolean. The
        columns are the score, the loss, the share of right predictions and the
        margin; the score is NaN where nothing counts. The boolean says that
        scores are losses, for `ranked` to replace.
    """
    check_per_number(output)
    losses, _, _ = output.terms
    values = agreement.given_probability(output)
    are_losses = values is None
    values = losses if are_losses else values
    score = agreement.example_means(output, values)
    score = ops.where(usable, score, float("nan"))
    loss = agreement.example_means(output, losses)
    margins = agreement.margins(output)
    if margins is None:
        correct = margin = ops.zeros_like(score)
    else:
        margin, correct = (
            agreement.example_means(output, part) for part in margins
        )
    return ops.stack([score, loss, correct, margin], axis=1), are_losses


def ranked(values):
    """Returns the values of a whole batch, with ranks for losses as scores."""
    score = agreement.ranked(values[:, 0])
    return ops.concatenate([score[:, None], values[:, 1:]], axis=1)


def additions(values, visits, codes):
    """Returns what a visit adds to the sums of its examples.

    A code is twice the number of visits before the last one, plus whether that
    one was right. Codes only rise, so that the order does not matter in which
    several copies of an example are written.

    Args:
        values: Float tensor of shape `(batch_size, 4)`, see `of_batch`.
        visits: Integer tensor of shape `(batch_size,)`, those before.
        codes: Integer tensor of shape `(batch_size,)`, those before.

    Returns:
        Tuple of a float32 tensor of shape `(batch_size, 6)`, and of two int32
        tensors of shape `(batch_size,)`: visits to add, and the codes to raise
        the old ones to.
    """
    finite = ops.isfinite(values[:, :1])
    values = ops.where(finite, values, 0.0)
    score, loss, correct, margin = ops.unstack(values, axis=1)
    there = ops.cast(finite[:, 0], "int32")
    # Of several tokens or pixels, most have to be right.
    is_right = ops.cast(correct >= 0.5, "int32")
    forgotten = ops.cast(there * (codes % 2) * (1 - is_right), "float32")
    added = [score, score**2, loss, correct, margin, forgotten]
    codes = there * (2 * visits + is_right)
    return ops.stack(added, axis=1), there, codes


def table(sums, visits, are_ranks):
    """Returns a DataFrame of the means over visits.

    Args:
        sums: Float array of shape `(n, 6)`, see `SUMMED`.
        visits: Integer array of shape `(n,)`.
        are_ranks: Boolean, whether scores are ranks and labels no classes.
    """
    pandas = import_extra("pandas", "report")
    sums = np.where(visits[:, None] > 0, sums, np.nan).astype("float64")
    total = dict(zip(SUMMED, sums.T))
    count = np.maximum(visits, 1)
    mean = total["score"] / count
    variance = np.maximum(total["squared"] / count - mean**2, 0.0)
    columns = {"score": mean, "variability": np.sqrt(variance)}
    columns["loss"] = total["loss"] / count
    if not are_ranks:
        columns["correctness"] = total["correct"] / count
        columns["margin"] = total["margin"] / count
        columns["forgetting"] = total["forgotten"]
    return pandas.DataFrame({**columns, "visits": visits})
