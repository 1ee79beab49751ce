"""Which examples a selection kept, and how many of them were right."""

import numpy as np

from keras_bilevel import checks
from keras_bilevel.extras import axes_or_new
from keras_bilevel.extras import import_extra
from keras_bilevel.report.columns import read_ids
from keras_bilevel.report.columns import read_wrong


def label_precision(kept, wrong):
    """Returns the share of right labels among what was kept, by epoch.

    Args:
        kept: Integer array of shape `(epochs, n)`, by how many networks each
            example was kept, -1 where it was not seen; or an object with such
            an array as `kept`, a `kb.callbacks.SelectionHistory`.
        wrong: Boolean array of shape `(n,)`, which labels are wrong.

    Returns:
        Float array of shape `(epochs,)`; NaN where nothing was kept.

    Raises:
        ValueError: If `kept` is of another kind, or `wrong` of another length.

    Example:

    >>> kept = [[1, 1, 1, 1], [1, 0, 1, -1]]
    >>> kb.report.label_precision(kept, np.array([False, True, False, True]))
    array([0.5, 1. ])

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 3
    """
    times = np.maximum(_read_kept(kept), 0)
    wrong = read_wrong(wrong, times.shape[1])
    total = times.sum(axis=1)
    right = times[:, ~wrong].sum(axis=1)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def kept_examples(kept, ids=None):
    """Returns a table of which example was kept in which epoch.

    Args:
        kept: As for `label_precision`.
        ids: Array of shape `(n,)`, what to call the examples. Defaults to
            the row numbers.

    Returns:
        `pandas.DataFrame` with a row for each example and epoch in which it
        was kept: `epoch` (from 0), `id` and `networks`, by how many networks.

    Raises:
        ValueError: If `kept` is of another kind, or `ids` of another length.

    Example:

    >>> kb.report.kept_examples([[2, 1], [0, 2]])["id"].tolist()
    [0, 1, 1]
    """
    pandas = import_extra("pandas", "report")
    kept = _read_kept(kept)
    epochs, rows = np.nonzero(kept > 0)
    names = read_ids(ids, kept.shape[1])[rows]
    return pandas.DataFrame(
        {"epoch": epochs, "id": names, "networks": kept[epochs, rows]}
    )


def plot_label_precision(histories, wrong, ax=None):
    """Plots label precision against epochs, a line for each history.

    Args:
        histories: What `label_precision` takes, or a dict of names and these.
        wrong: Boolean array of shape `(n,)`, which labels are wrong.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those of
            a new figure.

    Returns:
        `matplotlib.axes.Axes`.

    Example:

    >>> wrong = np.array([False, True])
    >>> ax = kb.report.plot_label_precision({"mine": [[2, 1]]}, wrong)
    """
    ax = axes_or_new(ax, extra="report")
    if not isinstance(histories, dict):
        histories = {"kept": histories}
    for name, kept in histories.items():
        precision = label_precision(kept, wrong)
        ax.plot(np.arange(1, len(precision) + 1), precision, label=name)
    ax.axhline(
        1 - np.mean(wrong), color="black", linewidth=0.8, label="all labels"
    )
    ax.set(xlabel="epoch", ylabel="share of right labels among the kept")
    ax.legend()
    return ax


def _read_kept(kept):
    kept = np.asarray(getattr(kept, "kept", kept))
    if kept.ndim != 2 or kept.dtype.kind not in "iu":
        raise checks.wrong(
            "argument `kept`",
            "an integer array of shape (epochs, n), or a "
            "`kb.callbacks.SelectionHistory`",
            f"dtype {kept.dtype} and shape {kept.shape}",
        )
    return kept
