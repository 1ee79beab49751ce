"""Docstrings are Markdown, as those of Keras: makes them reStructuredText."""

import re

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w?))")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
_FENCE = re.compile(r"( *)```(\w*)$")


def _inline(text):
    """Returns prose with its code and its links marked as Sphinx wants it."""

    def code(match):
        # A word that goes on behind code needs a mark of its own.
        return f"``{match[1]}``" + ("\\ " if match[2] else "")

    def link(match):
        return f"`{match[1]} <{match[2]}>`__"

    # Split, so that code within a link's text is left to the link.
    parts, end = [], 0
    for match in _LINK.finditer(text):
        parts += [_CODE.sub(code, text[end : match.start()]), link(match)]
        end = match.end()
    return "".join([*parts, _CODE.sub(code, text[end:])])


def _is_item(line):
    return re.match(r" *(-|\d+\.) ", line) is not None


def _separated(lines):
    """Returns lines with an empty one before each list."""
    found = []
    for line in lines:
        last = found[-1] if found else ""
        begins = _is_item(line) and last.strip() and not _is_item(last)
        goes_on = last.startswith(" " * (len(line) - len(line.lstrip()) + 1))
        if begins and not goes_on:
            found.append("")
        found.append(line)
    return found


def restructured(lines):
    """Returns the lines of a docstring as reStructuredText.

    Args:
        lines: List of strings, Markdown: prose, lists, fenced code, examples
            that begin with `>>>`.

    Returns:
        List of strings.

    Example:

    >>> restructured(["Takes `x`:", "", "```python", "f(x)", "```"])
    ['Takes ``x``:', '', '.. code-block:: python', '', '   f(x)', '']
    """
    found, prose, fence, example = [], [], None, False

    def flush():
        found.extend(_inline("\n".join(_separated(prose))).split("\n"))
        prose.clear()

    for line in lines:
        mark = _FENCE.match(line)
        if fence is not None:
            if mark:
                fence = None
                found.append("")
            else:
                found.append(f"   {line}" if line.strip() else "")
        elif mark:
            if prose:
                flush()
            fence = mark[1]
            language = mark[2] or "text"
            found.extend([f"{fence}.. code-block:: {language}", ""])
        elif line.lstrip().startswith(">>>") or (example and line.strip()):
            if prose:
                flush()
            example = True
            found.append(line)
        else:
            example = False
            prose.append(line)
    if prose:
        flush()
    return found


def setup(app):
    """Has Sphinx convert docstrings before napoleon reads their sections."""

    def convert(app, what, name, obj, options, lines):
        lines[:] = restructured(lines)

    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True}
