"""What reports are given, read as one entry for each example."""

import numpy as np

from keras_bilevel import checks
from keras_bilevel.data.labels import read_class_ids


def read_scores(scores):
    """Returns scores as a float array of shape `(n,)`.

    This is the only place that decides what scores may be, and which way they
    point: higher is more trustworthy, NaN was never seen in training.

    Args:
        scores: Array, Series or DataFrame; or an object that has such a thing
            as `example_scores`.
    """
    values = _values(scores)
    array = np.asarray(values)
    # Booleans are not scores: more likely `wrong` in the wrong place.
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise checks.wrong(
            "argument `scores`",
            "one number for each example: an array or Series of shape (n,), "
            "a DataFrame of one column or with a column `score`, or an "
            "object with `example_scores`, such as "
            "`kb.callbacks.ExampleHistory` or `kb.weighting.Soseleto`",
            _described(scores, array),
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
        raise checks.wrong(
            "argument `scores`",
            "a number for at least one example",
            f"{len(scores)} scores, all NaN (never seen)",
            "Train first.",
        )
    return rows


def read_column(name, values, num_rows):
    """Returns an array of shape `(num_rows,)`, one entry for each score."""
    values = np.asarray(values)
    if values.shape != (num_rows,):
        raise checks.wrong(
            f"argument `{name}`",
            f"shape ({num_rows},), one entry for each score",
            f"shape {values.shape}",
        )
    is_text = values.dtype.kind in "UO"
    return np.frompyfunc(written, 1, 1)(values) if is_text else values


def written(cell):
    """Returns a text as UTF-8 can hold it, and anything else as it is.

    Names of files need not be UTF-8. Of such bytes Python makes characters
    that pandas and files refuse.
    """
    if not isinstance(cell, str):
        return cell
    return cell.encode("utf-8", "backslashreplace").decode("utf-8")


def read_ids(ids, num_rows):
    """Returns what to call the examples: the row numbers by default."""
    return read_column(
        "ids", np.arange(num_rows) if ids is None else ids, num_rows
    )


def read_wrong(wrong, num_rows):
    """Returns the boolean array of shape `(num_rows,)` of wrong labels."""
    wrong = read_column("wrong", wrong, num_rows)
    if wrong.dtype != bool:
        raise checks.wrong(
            "argument `wrong`",
            "booleans, True where a label is wrong",
            f"dtype {wrong.dtype}",
        )
    return wrong


def read_classes(y, num_rows):
    """Returns the integer class of each example.

    Args:
        y: Integers of shape `(num_rows,)` or `(num_rows, 1)`, or one-hot
            vectors of shape `(num_rows, num_classes)`.
        num_rows: Integer, the number of scores.
    """
    return read_column("y", read_class_ids("y", y), num_rows)


def names_of(classes, class_names):
    """Returns a list of the names of integer classes.

    Args:
        classes: Integer array of any length.
        class_names: Sequence, the name of class `i` at place `i`; or `None`,
            for the integers themselves.
    """
    if class_names is None:
        return [str(label) for label in classes]
    for label in classes:
        if not 0 <= label < len(class_names):
            raise checks.wrong(
                "argument `class_names`",
                f"a name for every class, class {label} among them",
                f"{len(class_names)} names",
            )
    return [written(str(class_names[label])) for label in classes]


def _values(scores):
    scores = getattr(scores, "example_scores", scores)
    if hasattr(scores, "columns"):
        scores = _only_column(scores)
    dtype = getattr(scores, "dtype", None)
    is_pandas = hasattr(scores, "to_numpy") and not isinstance(dtype, np.dtype)
    if is_pandas and getattr(dtype, "kind", None) in ("i", "u", "f"):
        # NumPy would make objects of a Series that knows missing values.
        return scores.to_numpy("float64", na_value=np.nan)
    return scores


def _only_column(table):
    """Returns the column of a DataFrame that has the scores."""
    if "rank" in table.columns:
        raise checks.wrong(
            "argument `scores`",
            "a row for each example, in the order of the data",
            "a DataFrame with the column `rank`, in that order, as "
            "`kb.report.suspects` returns it",
            "Pass the scores that it was made from.",
        )
    if "score" in table.columns:
        return table["score"]
    return table.iloc[:, 0] if table.shape[1] == 1 else table


def _described(scores, array):
    name = type(scores).__name__
    if array.dtype == object and array.ndim == 0:
        return (
            f"{name}, which has no scores of examples. Pass a history that "
            "was in the `callbacks` of `fit`, or the `weighting` of a model "
            "that remembers one for each example"
        )
    return f"{name} with dtype {array.dtype} and shape {array.shape}"
