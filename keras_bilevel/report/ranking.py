"""Which examples to look at first."""

import numpy as np

from keras_bilevel import checks
from keras_bilevel.extras import import_extra
from keras_bilevel.report.columns import names_of
from keras_bilevel.report.columns import ranked
from keras_bilevel.report.columns import read_classes
from keras_bilevel.report.columns import read_column
from keras_bilevel.report.columns import read_ids
from keras_bilevel.report.columns import read_scores


def suspects(scores, y=None, *, ids=None, class_names=None, **columns):
    """Ranks the examples, most suspect first.

    Examples that were never seen (NaN) are left out. Equal scores stay in the
    order of their rows.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        y: The given labels, integers or one-hot. Defaults to `None`.
        ids: Array of shape `(n,)`, what to call the examples. Defaults to
            the row numbers.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.
        **columns: Further arrays of shape `(n,)`, by the names of their
            columns.

    Returns:
        `pandas.DataFrame` with the columns `rank` (from 1 on), `id`, `score`,
        `label` (where `y` is given), `percentile` (share of the seen examples
        with a lower score) and those of `columns`.

    Raises:
        ValueError: If an array has another length than the scores, or one of
            `columns` has the name of another column.

    Example:

    >>> import numpy as np
    >>> scores = [0.9, 0.1, np.nan, 0.4]
    >>> kb.report.suspects(scores, y=[7, 1, 1, 7], weight=[1.1, 0, 1, 0.5])
       rank  id  score  label  percentile  weight
    0     1   1    0.1      1    0.000000     0.0
    1     2   3    0.4      7    0.333333     0.5
    2     3   0    0.9      7    0.666667     1.1
    """
    pandas = import_extra("pandas", "report")
    scores = read_scores(scores)
    rows = ranked(scores)
    table = {
        "rank": np.arange(1, len(rows) + 1),
        "id": read_ids(ids, len(scores))[rows],
        "score": scores[rows],
    }
    if y is not None:
        labels = read_classes(y, len(scores))[rows]
        named = class_names is not None
        table["label"] = names_of(labels, class_names) if named else labels
    lower = np.searchsorted(scores[rows], scores[rows])
    table["percentile"] = lower / max(len(rows), 1)
    for name, values in columns.items():
        if name in ("rank", "id", "score", "label", "percentile"):
            raise checks.wrong(
                "argument `columns`",
                "names that `suspects` does not use itself",
                name,
            )
        table[name] = read_column(name, values, len(scores))[rows]
    return pandas.DataFrame(table)
