"""How well thresholds on scores find wrong labels, where those are known."""

import numpy as np

from keras_bilevel import checks
from keras_bilevel.extras import import_extra
from keras_bilevel.extras import new_figure
from keras_bilevel.report.columns import ranked_or_error
from keras_bilevel.report.columns import read_scores
from keras_bilevel.report.columns import read_wrong


def threshold_sweep(scores, wrong, thresholds=None):
    """Returns how well each threshold tells wrong labels from right ones.

    Scores below a threshold are removed. Examples that were never seen (NaN) do
    not count. A share of nothing is NaN, such as the precision where nothing is
    removed.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        wrong: Boolean array of shape `(n,)`, which labels are wrong.
        thresholds: Array of shape `(m,)`. Defaults to those which keep 100 %,
            99 %, ... 0 % of the examples; with equal scores among them there
            are fewer.

    Returns:
        `pandas.DataFrame` with a row for each threshold and the columns
        `threshold`, `kept` (share kept), `precision` (share of the removed
        that are wrong), `recall` (share of the wrong that are removed),
        `noise` (share of the kept that are wrong) and `accuracy` (share that is
        classified correctly: wrong and removed, or right and kept).

    Raises:
        ValueError: If no example was seen, or lengths differ.

    Example:

    >>> scores, wrong = [0.1, 0.2, 0.6, 0.9], [True, True, False, False]
    >>> kb.report.threshold_sweep(scores, wrong, thresholds=[0.2, 0.5, 0.8])
       threshold  kept  precision  recall     noise  accuracy
    0        0.2  0.75   1.000000     0.5  0.333333      0.75
    1        0.5  0.50   1.000000     1.0  0.000000      1.00
    2        0.8  0.25   0.666667     1.0  0.000000      0.75

    Reference:

    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622),
      Figs. 1(e) and 2
    """
    pandas = import_extra("pandas", "report")
    scores = read_scores(scores)
    wrong = read_wrong(wrong, len(scores))
    rows = ranked_or_error(scores)
    scores, wrong = scores[rows], wrong[rows]
    if thresholds is None:
        thresholds = _hundredths(scores)
    thresholds = _read_thresholds(thresholds, scores.dtype)
    # In this order, those that a threshold removes are the first ones.
    removed = np.searchsorted(scores, thresholds)
    wrong_removed = np.concatenate([[0], np.cumsum(wrong)])[removed]
    kept = len(scores) - removed
    wrong_kept = wrong.sum() - wrong_removed
    return pandas.DataFrame(
        {
            "threshold": thresholds,
            "kept": kept / len(scores),
            "precision": _share(wrong_removed, removed),
            "recall": _share(wrong_removed, wrong.sum()),
            "noise": _share(wrong_kept, kept),
            "accuracy": (wrong_removed + kept - wrong_kept) / len(scores),
        }
    )


def plot_threshold_sweep(sweep, noise_level=None):
    """Plots noise against the share kept, and the rest against thresholds.

    Args:
        sweep: What `threshold_sweep` returned.
        noise_level: Float, the share of wrong labels in all data. Defaults to
            the noise of the row that keeps most.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    ```python
    sweep = kb.report.threshold_sweep(history, wrong)
    kb.report.plot_threshold_sweep(sweep).savefig("sweep.png")
    ```
    """
    figure = new_figure((10, 4), "report")
    left, right = figure.subplots(1, 2)
    if noise_level is None:
        noise_level = sweep["noise"].iloc[sweep["kept"].argmax()]
    left.plot(sweep["kept"], sweep["noise"], label="among the kept")
    left.axhline(noise_level, color="gray", linestyle=":", label="among all")
    left.set(xlabel="share kept", ylabel="share of wrong labels")
    for name in ("precision", "recall", "accuracy"):
        right.plot(sweep["threshold"], sweep[name], label=name)
    right.set(xlabel="threshold", ylim=(-0.02, 1.02))
    left.legend()
    right.legend()
    return figure


def _hundredths(scores):
    """Thresholds that remove 0 %, 1 %, ... 100 % of the sorted scores."""
    removed = np.round(np.linspace(0, len(scores), 101)).astype(int)
    infinity = scores.dtype.type(np.inf)
    above_all = np.nextafter(scores[-1:], infinity)
    return np.unique(np.append(scores, above_all)[removed])


def _read_thresholds(thresholds, dtype):
    # The scores' precision, as in `keep_mask`.
    thresholds = np.asarray(thresholds, dtype)
    if thresholds.ndim != 1 or np.any(np.isnan(thresholds)):
        raise checks.wrong_argument(
            "thresholds", thresholds, "numbers of shape (m,)"
        )
    return thresholds


def _share(part, whole):
    """`part / whole`, NaN where `whole` is 0."""
    share = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
