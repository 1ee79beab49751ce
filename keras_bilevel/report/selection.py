"""Which examples a selection kept, and how many of them were right."""

import numpy as np

from keras_bilevel.extras import import_extra
from keras_bilevel.report.scores import read_wrong


def label_precision(kept, wrong):
    """Returns the share of right labels among what was kept, by epoch.

    Args:
        kept: Integer array of shape `(epochs, n)`, by how many networks each
            example was kept, -1 where it was not seen; or an object with such
            an array as `kept`, a `kb.callbacks.SelectionHistory`.
        wrong: Boolean array of shape `(n,)`, which labels are wrong.

    Returns:
        Float array of shape `(epochs,)`; NaN where nothing was kept.

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
        `pandas.DataFrame` with a row for each example that was kept in an
        epoch: `epoch`, `id` and `networks`, by how many networks.

    Example:

    >>> kb.report.kept_examples([[2, 1], [0, 2]])["id"].tolist()
    [0, 1, 1]
    """
    pandas = import_extra("pandas", "report")
    kept = _read_kept(kept)
    epochs, rows = np.nonzero(kept > 0)
    names = rows if ids is None else np.asarray(ids)[rows]
    return pandas.DataFrame(
        {"epoch": epochs, "id": names, "networks": kept[epochs, rows]}
    )


def plot_label_precision(histories, wrong):
    """Plots label precision against epochs, a line for each history.

    Args:
        histories: Dict of names and what `label_precision` takes.
        wrong: Boolean array of shape `(n,)`, which labels are wrong.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    >>> wrong = np.array([False, True])
    >>> figure = kb.report.plot_label_precision({"mine": [[2, 1]]}, wrong)
    """
    figure_module = import_extra("matplotlib.figure", "report")
    figure = figure_module.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, kept in histories.items():
        precision = label_precision(kept, wrong)
        axes.plot(np.arange(1, len(precision) + 1), precision, label=name)
    axes.axhline(
        1 - np.mean(wrong), color="black", linewidth=0.8, label="all labels"
    )
    axes.set(xlabel="epoch", ylabel="share of right labels among the kept")
    axes.legend()
    return figure


def _read_kept(kept):
    kept = np.asarray(getattr(kept, "kept", kept))
    if kept.ndim != 2 or kept.dtype.kind not in "iu":
        raise ValueError(
            "Invalid value for argument `kept`. Expected an integer array of "
            "shape (epochs, n), or a `kb.callbacks.SelectionHistory`. "
            f"Received: dtype {kept.dtype} and shape {kept.shape}"
        )
    return kept
