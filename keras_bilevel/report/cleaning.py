"""Data without the examples of low scores."""

import numbers

import keras
import numpy as np

from keras_bilevel import checks
from keras_bilevel.data.pipelines import is_stream
from keras_bilevel.data.streams import filtered
from keras_bilevel.report.columns import ranked
from keras_bilevel.report.columns import read_scores


def keep_mask(scores, *, keep=None, threshold=None):
    """Returns which examples to keep.

    Examples that were never seen (NaN) are not kept. Exactly one of `keep`
    and `threshold` must be given.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        keep: Float in [0, 1]: keeps `round(keep * seen)` of the `seen`
            examples, those with the highest scores. Among equal scores the
            later rows are kept, so that the first rows of `suspects` go.
        threshold: Float: keeps the scores at or above it. It is rounded to
            the scores' precision first, so that 0.7 keeps a float32 0.7.

    Returns:
        Boolean array of shape `(n,)`.

    Raises:
        ValueError: If both or none are given, or are out of range.

    Example:

    >>> kb.report.keep_mask([0.9, 0.1, 0.4, 0.4], keep=0.5)
    array([ True, False, False,  True])
    >>> kb.report.keep_mask([0.9, 0.1, 0.4, 0.4], threshold=0.4)
    array([ True, False,  True,  True])
    """
    scores = read_scores(scores)
    _check_choice(keep, threshold)
    if threshold is not None:
        return scores >= scores.dtype.type(threshold)
    rows = ranked(scores)
    mask = np.zeros(len(scores), bool)
    mask[rows[len(rows) - round(keep * len(rows)) :]] = True
    return mask


def cleaned(scores, data, *, keep=None, threshold=None):
    """Returns the data without the examples that `keep_mask` does not keep.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        data: Array, or a structure such as `(x, y)` of arrays with `n` rows
            each; or a `tf.data.Dataset` of single examples. An element
            `(x, y, sample_weight, ids)` of a dataset belongs to the score of
            its id, any other one to that of its position, which must be the
            same in each epoch: clean first, then shuffle.
        keep: Float in [0, 1], see `keep_mask`.
        threshold: Float, see `keep_mask`.

    Returns:
        What `data` is, with fewer examples in the same order. Ids stay as
        they were.

    Raises:
        ValueError: If the data do not have one example for each score.

    Example:

    >>> x, y = np.arange(8).reshape(4, 2), np.array([0, 1, 1, 0])
    >>> x, y = kb.report.cleaned([0.9, 0.1, 0.3, 0.4], (x, y), keep=0.5)
    >>> x
    array([[0, 1],
           [6, 7]])
    >>> y
    array([0, 0])
    """
    mask = keep_mask(scores, keep=keep, threshold=threshold)
    if is_stream(data):
        return filtered(data, mask)
    return keras.tree.map_structure(lambda a: _kept_rows(a, mask), data)


def _kept_rows(array, mask):
    if array is None:
        return None
    if tuple(getattr(array, "shape", ()))[:1] != mask.shape:
        raise checks.wrong(
            "argument `data`",
            f"arrays with {len(mask)} rows, one for each score",
            f"{type(array).__name__} of shape {np.shape(array)}",
        )
    return array[mask]


def _check_choice(keep, threshold):
    if (keep is None) == (threshold is None):
        raise ValueError(
            "Expected exactly one of `keep` and `threshold`. "
            f"Received: keep={keep}, threshold={threshold}. Pass `keep` for "
            "a share of the examples, or `threshold` for a limit of scores."
        )
    if keep is not None:
        checks.check_share("keep", keep)
    if threshold is not None and not (
        isinstance(threshold, numbers.Real) and threshold == threshold
    ):
        raise checks.wrong_argument("threshold", threshold, "a number")
