"""All reports on one page, to send to whoever knows the labels."""

import base64
import html
import io
import pathlib
import string

import numpy as np

from keras_bilevel.checks import check_integer
from keras_bilevel.extras import new_figure
from keras_bilevel.report.classes import class_shares
from keras_bilevel.report.classes import plot_class_shares
from keras_bilevel.report.columns import read_scores
from keras_bilevel.report.images import contact_sheet
from keras_bilevel.report.ranking import suspects
from keras_bilevel.report.thresholds import plot_threshold_sweep
from keras_bilevel.report.thresholds import threshold_sweep

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font-family: sans-serif; margin: 2em auto; max-width: 64em; }
img { max-width: 100%; }
table { border-collapse: collapse; }
td, th { padding: 0.2em 0.8em; text-align: right; }
tr:nth-child(even) { background: #f0f0f0; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def write_html(
    scores,
    path,
    x=None,
    y=None,
    wrong=None,
    *,
    ids=None,
    class_names=None,
    title="Suspect labels",
    count=100,
):
    """Writes one self-contained page: suspects, images, classes, thresholds.

    It has the sections that the arguments allow.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`.
        path: String or path, the file to write.
        x: Images, as `contact_sheet` takes them. Defaults to `None`.
        y: The given labels, integers or one-hot. Defaults to `None`.
        wrong: Boolean array of shape `(n,)`, which labels are wrong, where
            that is known. Defaults to `None`.
        ids: Array of shape `(n,)`, what to call the examples. Defaults to
            the row numbers.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.
        title: String. Defaults to `"Suspect labels"`.
        count: Integer, how many suspects to list. Defaults to `100`.

    Returns:
        The path.

    Raises:
        ValueError: If an array does not have one entry for each score.

    Example:

    ```python
    kb.report.write_html(history, "suspects.html", x, y)
    ```
    """
    check_integer("count", count, 1)
    scores = read_scores(scores)
    seen = np.count_nonzero(~np.isnan(scores))
    sections = [
        f"<p>{len(scores)} examples, {seen} of them seen in training.</p>"
    ]
    if x is not None:
        sheet = contact_sheet(scores, x, y, ids=ids, class_names=class_names)
        sections.append(_picture("Lowest and highest scores", sheet))
    if wrong is not None:
        figure = plot_threshold_sweep(threshold_sweep(scores, wrong))
        sections.append(_picture("Thresholds", figure))
    if y is not None:
        shares = class_shares(scores, y, keep=0.5, class_names=class_names)
        figure = new_figure((max(4, 0.5 * len(shares)), 4), "report")
        plot_class_shares(shares, figure.subplots())
        sections.append(
            _picture("Share of each class in the better half", figure)
        )
    columns = {} if wrong is None else {"wrong": wrong}
    table = suspects(scores, y, ids=ids, class_names=class_names, **columns)
    table = table.head(count).to_html(
        index=False, border=0, escape=True, float_format="{:.4g}".format
    )
    sections.append(_section("Most suspect first", table))
    page = PAGE.substitute(title=html.escape(title), body="\n".join(sections))
    pathlib.Path(path).write_text(page, encoding="utf-8")
    return path


def _section(heading, content):
    return f"<h2>{heading}</h2>\n{content}"


def _picture(heading, figure):
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    data = base64.b64encode(png.getvalue()).decode("ascii")
    image = f'<img alt="{heading}" src="data:image/png;base64,{data}">'
    return _section(heading, image)
