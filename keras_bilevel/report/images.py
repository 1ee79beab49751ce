"""The images with the lowest and the highest scores."""

import math

import numpy as np

from keras_bilevel import checks
from keras_bilevel.checks import check_integer
from keras_bilevel.extras import new_figure
from keras_bilevel.report.columns import names_of
from keras_bilevel.report.columns import ranked_or_error
from keras_bilevel.report.columns import read_classes
from keras_bilevel.report.columns import read_ids
from keras_bilevel.report.columns import read_scores

COLUMNS = 4


def contact_sheet(scores, x, y=None, *, ids=None, class_names=None, count=24):
    """Shows the images with the lowest scores beside those with the highest.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
            Examples that were never seen (NaN) are not shown.
        x: Images of shape `(n, height, width)`, `(n, height, width, 1)` or
            `(n, height, width, 3)`. `uint8` is 0 to 255; of other types, the
            smallest finite value shown is black and the largest white. Pixels
            that are not finite are black.
        y: The given labels, integers or one-hot. Defaults to `None`.
        ids: Array of shape `(n,)`, what to call the examples. Defaults to
            the row numbers.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.
        count: Integer, how many of the lowest and how many of the highest.
            No image is in both. Defaults to `24`.

    Returns:
        `matplotlib.figure.Figure`: the lowest on the left, the highest on the
        right, the most extreme first; above each its id, label and score.

    Raises:
        ValueError: If `x` has another shape, or no example was seen.

    Example:

    ```python
    sheet = kb.report.contact_sheet(history, x, y)
    sheet.savefig("sheet.png")
    ```

    Reference:

    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622),
      Figs. 4, 5
    """
    scores = read_scores(scores)
    rows = ranked_or_error(scores)
    x = read_images(x, len(scores))
    check_integer("count", count, 1)
    low = rows[: min(count, math.ceil(len(rows) / 2))]
    high = rows[::-1][: min(count, len(rows) // 2)]
    shown = np.concatenate([low, high])
    images = scaled(x[shown])
    titles = _titles(shown, scores, y, class_names, ids)

    height = math.ceil(len(low) / COLUMNS)
    figure = new_figure((2.4 * COLUMNS, 1.5 * height + 0.5), "report")
    left, right = figure.subfigures(1, 2)
    left.suptitle("lowest scores")
    right.suptitle("highest scores")
    _fill(left, height, images[: len(low)], titles[: len(low)])
    _fill(right, height, images[len(low) :], titles[len(low) :])
    return figure


def _fill(figure, height, images, titles):
    grid = figure.subplots(height, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=7, parse_math=False)


def _titles(rows, scores, y, class_names, ids):
    """Two lines for each row: id and label, score."""
    num_rows = len(scores)
    names = [str(i) for i in read_ids(ids, num_rows)[rows]]
    if y is not None:
        labels = names_of(read_classes(y, num_rows)[rows], class_names)
        names = [f"{i}: {label}" for i, label in zip(names, labels)]
    return [f"{i}\n{score:.3g}" for i, score in zip(names, scores[rows])]


def read_images(x, num_rows):
    """Returns images as an array, gray ones without the axis of length 1."""
    x = np.asarray(x)
    channels = x.shape[3:]
    if x.ndim not in (3, 4) or channels not in ((), (1,), (3,)):
        raise checks.wrong(
            "argument `x`",
            "images of shape (n, height, width), (n, height, width, 1) or "
            "(n, height, width, 3)",
            f"shape {x.shape}",
        )
    if len(x) != num_rows:
        raise checks.wrong(
            "argument `x`", f"{num_rows} images, one for each score", len(x)
        )
    return x[..., 0] if channels == (1,) else x


def scaled(images):
    """Images as floats in [0, 1]."""
    if images.dtype == "uint8":
        return images / 255
    images = images.astype("float64")
    finite = np.isfinite(images)
    if not finite.any():
        return np.zeros_like(images)
    low, high = images[finite].min(), images[finite].max()
    return np.where(finite, (images - low) / ((high - low) or 1.0), 0.0)
