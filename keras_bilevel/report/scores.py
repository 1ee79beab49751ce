"""Scores of examples: the higher, the more trustworthy."""

import numpy as np


def read_scores(scores):
    """Returns scores as a float array of shape `(n,)`.

    Args:
        scores: Array of shape `(n,)`, NaN where an example was never seen; or
            an object that has such an array as `example_scores`.
    """
    scores = getattr(scores, "example_scores", scores)
    array = np.asarray(scores)
    # Booleans are not scores: more likely `wrong` in the wrong place.
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ValueError(
            "Invalid value for argument `scores`. Expected an array of "
            "numbers of shape (n,), or an object with such an array as "
            f"`example_scores`. Received: {type(scores).__name__} with dtype "
            f"{array.dtype} and shape {array.shape}"
        )
    return array if array.dtype.kind == "f" else array.astype("float64")


def ranked(scores):
    """Returns the rows of the seen examples, lowest score first.

    Equal scores stay in the order of their rows.
    """
    num_seen = np.count_nonzero(~np.isnan(scores))
    # NaN is sorted to the end.
    return np.argsort(scores, kind="stable")[:num_seen]


def ranked_or_error(scores):
    """Returns `ranked(scores)`, of at least one example."""
    rows = ranked(scores)
    if len(rows) == 0:
        raise ValueError(
            "Invalid value for argument `scores`. Expected a number for at "
            f"least one example. Received: {len(scores)} scores, all NaN "
            "(never seen). Train first."
        )
    return rows


def read_column(name, values, num_rows):
    """Returns an array of shape `(num_rows,)`, one entry for each score."""
    values = np.asarray(values)
    if values.shape != (num_rows,):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected shape "
            f"({num_rows},), one entry for each score. "
            f"Received: shape {values.shape}"
        )
    return values


def read_wrong(wrong, num_rows):
    """Returns the boolean array of shape `(num_rows,)` of wrong labels."""
    wrong = read_column("wrong", wrong, num_rows)
    if wrong.dtype != bool:
        raise ValueError(
            "Invalid value for argument `wrong`. Expected booleans, True "
            f"where a label is wrong. Received: dtype {wrong.dtype}"
        )
    return wrong
