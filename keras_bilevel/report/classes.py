"""Which classes are kept, and which are not."""

import numpy as np

from keras_bilevel.extras import axes_or_new
from keras_bilevel.extras import import_extra
from keras_bilevel.report.cleaning import keep_mask
from keras_bilevel.report.columns import names_of
from keras_bilevel.report.columns import read_classes
from keras_bilevel.report.columns import read_scores


def class_shares(scores, y, *, keep=None, threshold=None, class_names=None):
    """Returns which share of each class is kept.

    Examples that were never seen (NaN) do not count, and classes without seen
    examples are left out. Exactly one of `threshold` and `keep` must be given.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        y: The given labels, integers or one-hot.
        keep: Float in [0, 1], see `keep_mask`. It is the share of all
            examples: were scores independent of the class, it would be that
            of each class.
        threshold: Float, see `keep_mask`.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.

    Returns:
        `pandas.DataFrame` with the columns `class` (its name), `kept` (share
        kept) and `count` (seen examples).

    Raises:
        ValueError: If both or none of `keep` and `threshold` are given, or
            `y` has no class for each score.

    Example:

    >>> scores = [0.9, 0.1, 0.4, 0.8]
    >>> kb.report.class_shares(scores, [1, 0, 0, 0], threshold=0.4)
      class      kept  count
    0     0  0.666667      3
    1     1  1.000000      1

    Reference:

    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622),
      Fig. 3
    """
    pandas = import_extra("pandas", "report")
    scores = read_scores(scores)
    classes = read_classes(y, len(scores))
    kept = keep_mask(scores, keep=keep, threshold=threshold)
    seen = ~np.isnan(scores)
    found, members = np.unique(classes[seen], return_inverse=True)
    count = np.bincount(members, minlength=len(found))
    return pandas.DataFrame(
        {
            "class": names_of(found, class_names),
            "kept": np.bincount(members, kept[seen], len(found)) / count,
            "count": count,
        }
    )


def plot_class_shares(shares, ax=None):
    """Plots the share kept of each class.

    Args:
        shares: What `class_shares` returned.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those of
            a new figure.

    Returns:
        `matplotlib.axes.Axes`.

    Example:

    ```python
    shares = kb.report.class_shares(history, y, keep=0.8)
    kb.report.plot_class_shares(shares).figure.savefig("classes.png")
    ```
    """
    ax = axes_or_new(ax, (max(4, 0.5 * len(shares)), 4), "report")
    places = np.arange(len(shares))
    ax.bar(places, shares["kept"])
    names = list(shares["class"])
    ax.set_xticks(places, labels=names, rotation=90, parse_math=False)
    ax.set(xlabel="class", ylabel="share kept", ylim=(0, 1))
    return ax
