"""Suspect labels for a spreadsheet."""

import datetime
import numbers

import numpy as np

from keras_bilevel.report.columns import written
from keras_bilevel.report.ranking import suspects

# What makes a spreadsheet read a cell as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NO_TEXT = (numbers.Number, np.bool_, datetime.date)


def write_csv(scores, path, y=None, *, ids=None, class_names=None, **columns):
    """Writes all examples, most suspect first, for a spreadsheet.

    Numbers stay numbers. A text that a spreadsheet would run as a formula gets
    an apostrophe in front. Some file names are such a text. Bytes that are not
    UTF-8, which file names may have, are written as `\\udcff`.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        path: String or path, the file to write, in UTF-8.
        y: The given labels, integers or one-hot. Defaults to `None`.
        ids: Array of shape `(n,)`, what to call the examples, such as the
            `file_paths` of `keras.utils.image_dataset_from_directory`.
            Defaults to the row numbers.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.
        **columns: Further arrays of shape `(n,)`, by the names of their
            columns.

    Returns:
        The path.

    Raises:
        ValueError: If an array has another length than the scores.

    Example:

    ```python
    kb.report.write_csv(history, "suspects.csv", y, ids=np.arange(len(y)))
    ```
    """
    table = suspects(scores, y, ids=ids, class_names=class_names, **columns)
    table = table.rename(columns=_harmless)
    table = table.map(_harmless, na_action="ignore")
    table.to_csv(path, index=False, encoding="utf-8")
    return path


def _harmless(cell):
    if isinstance(cell, _NO_TEXT):
        return cell
    text = written(str(cell))
    return "'" + text if text.startswith(_FORMULA) else text
