"""All reports on one page, to send to whoever knows the labels."""

import base64
import html
import importlib.resources
import io
import pathlib
import platform
import string

import keras
import numpy as np

import keras_bilevel
from keras_bilevel import checks
from keras_bilevel.extras import import_extra
from keras_bilevel.extras import new_figure
from keras_bilevel.report.classes import class_shares
from keras_bilevel.report.classes import plot_class_shares
from keras_bilevel.report.columns import names_of
from keras_bilevel.report.columns import read_classes
from keras_bilevel.report.columns import read_column
from keras_bilevel.report.columns import read_scores
from keras_bilevel.report.images import read_images
from keras_bilevel.report.images import scaled
from keras_bilevel.report.ranking import suspects
from keras_bilevel.report.thresholds import plot_threshold_sweep
from keras_bilevel.report.thresholds import threshold_sweep


def write_html(
    scores,
    path,
    x=None,
    y=None,
    wrong=None,
    *,
    ids=None,
    class_names=None,
    pred_probs=None,
    settings=None,
    title="Suspect labels",
    count=100,
):
    """Writes one self-contained page: summary, suspects, figures, settings.

    It has the sections that the arguments allow. Suspects can be searched, and
    filtered by their label.

    Args:
        scores: A number for each example, higher is more trustworthy: an
            array, a Series, a history, a weighting; see `kb.report`. A history
            is plotted, too.
        path: String or path, the file to write.
        x: Images, as `contact_sheet` takes them. Defaults to `None`.
        y: The given labels, integers or one-hot. Defaults to `None`.
        wrong: Boolean array of shape `(n,)`, which labels are wrong, where
            that is known. Defaults to `None`.
        ids: Array of shape `(n,)`, what to call the examples. Defaults to
            the row numbers.
        class_names: Sequence, the name of class `i` at place `i`. Defaults to
            the integers.
        pred_probs: Array of shape `(n, num_classes)`, predicted probabilities,
            such as those of `out_of_sample`. The largest one is shown as the
            likely label. Defaults to `None`.
        settings: Dict of how the scores were made, to be shown. Defaults to
            `None`.
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
    checks.check_integer("count", count, 1)
    history, scores = scores, read_scores(scores)
    table = _suspects(scores, y, wrong, ids, class_names, pred_probs)
    table = table.head(count)
    sections = [_summary(scores, y, wrong), _filters(table)]
    if x is not None:
        rows = table.pop("row")
        images = scaled(read_images(x, len(scores))[rows])
        sections += [_cards(table, images), _details("As a table", table)]
    else:
        sections.append(_table(table.drop(columns="row")))
    if hasattr(history, "plot"):
        sections.append(_plot("All scores", history.plot))
    if wrong is not None:
        figure = plot_threshold_sweep(threshold_sweep(scores, wrong))
        sections.append(_picture("Thresholds", figure))
    if y is not None:
        shares = class_shares(scores, y, keep=0.5, class_names=class_names)
        width = max(4, 0.5 * len(shares))
        heading = "Share of each class in the better half"
        sections.append(
            _plot(heading, lambda ax: plot_class_shares(shares, ax), width)
        )
    sections.append(_settings(settings))
    page = importlib.resources.files("keras_bilevel.report") / "page.html"
    page = string.Template(page.read_text(encoding="utf-8")).substitute(
        title=html.escape(title), body="\n".join(sections)
    )
    # Texts that are no UTF-8: see `columns.written`.
    pathlib.Path(path).write_text(page, "utf-8", "backslashreplace")
    return path


def _suspects(scores, y, wrong, ids, class_names, pred_probs):
    """Returns the table of `suspects`, with `row` and further columns."""
    columns = {"row": np.arange(len(scores))}
    if pred_probs is not None:
        probabilities = checks.check_probabilities("pred_probs", pred_probs)
        likely = np.argmax(probabilities, axis=-1)
        likely = read_column("pred_probs", likely, len(scores))
        columns["likely"] = np.array(names_of(likely, class_names))
    if wrong is not None:
        columns["wrong"] = wrong
    table = suspects(scores, y, ids=ids, class_names=class_names, **columns)
    return table.drop(columns="percentile")


def _summary(scores, y, wrong):
    seen = ~np.isnan(scores)
    facts = {"examples": len(scores), "seen in training": seen.sum()}
    if y is not None:
        facts["labels"] = len(np.unique(read_classes(y, len(scores))))
    if wrong is not None:
        facts["known to be wrong"] = f"{np.mean(wrong):.1%}"
    if seen.any():
        facts["median score"] = f"{np.median(scores[seen]):.3g}"
    return _list(facts)


def _list(facts):
    items = "".join(
        f"<li><b>{html.escape(str(v))}</b>{html.escape(str(k))}</li>"
        for k, v in facts.items()
    )
    return f'<ul class="summary">{items}</ul>'


def _filters(table):
    select = ""
    if "label" in table:
        names = sorted(set(map(str, table["label"])))
        # Of its text alone a browser would take spaces away.
        options = "".join(
            f'<option value="{name}">{name}</option>'
            for name in map(html.escape, names)
        )
        select = (
            '<label>Label <select id="label"><option value="">all</option>'
            f"{options}</select></label>"
        )
    search = '<label>Search <input id="search" type="search"></label>'
    return (
        "<h2>Most suspect first</h2>\n"
        f'<div class="filters">{search}{select}<span id="shown"></span></div>'
    )


def _cards(table, images):
    cards = [_card(r, i) for r, i in zip(table.to_dict("records"), images)]
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(row, image):
    text = {name: html.escape(_text(value)) for name, value in row.items()}
    lines = [f"<span>{text['rank']}.</span> {text['id']}"]
    if "label" in text:
        lines.append(f'<span>given</span> <b class="given">{text["label"]}</b>')
    if "likely" in text:
        likely = f'<b class="likely">{text["likely"]}</b>'
        lines.append(f"<span>likely</span> {likely}")
    lines.append(f"<span>score</span> {text['score']}")
    return (
        f"<figure {_data(row)}>{_image(image)}"
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )


def _image(image):
    png = io.BytesIO()
    module = import_extra("matplotlib.image", "report")
    module.imsave(png, image, cmap="gray", vmin=0, vmax=1)
    return f'<img alt="" loading="lazy" src="{_as_url(png)}">'


def _table(table, filtered=True):
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table)
    rows = []
    for row in table.to_dict("records"):
        cells = "".join(
            f"<td>{html.escape(_text(value))}</td>" for value in row.values()
        )
        data = f" {_data(row)}" if filtered else ""
        rows.append(f"<tr{data}>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _details(heading, table):
    content = _table(table, filtered=False)
    return f"<details><summary>{heading}</summary>{content}</details>"


def _data(row):
    """Returns the attributes by which the page filters."""
    text = html.escape(" ".join(map(_text, row.values())))
    label = html.escape(_text(row.get("label", "")))
    return f'data-text="{text}" data-label="{label}"'


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(settings):
    facts = {
        **(settings or {}),
        "keras_bilevel": keras_bilevel.__version__,
        "keras": f"{keras.version()}, {keras.backend.backend()}",
        "python": platform.python_version(),
    }
    return f"<h2>Settings and versions</h2>\n{_list(facts)}"


def _plot(heading, draw, width=6):
    figure = new_figure((width, 3.5), "report")
    draw(figure.subplots())
    return _picture(heading, figure)


def _picture(heading, figure):
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    image = f'<img class="plot" alt="{heading}" src="{_as_url(png)}">'
    return f"<h2>{heading}</h2>\n{image}"


def _as_url(png):
    data = base64.b64encode(png.getvalue()).decode("ascii")
    return f"data:image/png;base64,{data}"
