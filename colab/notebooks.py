"""Makes the notebooks of this folder from their sources.

    python -m colab.notebooks          # writes an .ipynb for each source
    python -m colab.notebooks --run    # runs them, too: figures are inside then

A source is a Python file in the form of keras.io's tutorials: docstrings at the
top level are cells of text, the first one holds the title, and a docstring that
begins with `shell` is a cell of shell commands. What is between them are cells
of code. `KERAS_BILEVEL_SMALL=1` runs all of them at a small setting.
"""

import ast
import json
import os
import re
import sys
import tempfile
import textwrap
from pathlib import Path

import nbformat
from nbformat import v4

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
FIELDS = ("Title", "Author", "Date created", "Last modified", "Description")
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/"
    "colab-badge.svg)](https://colab.research.google.com/github/"
    "keras-bilevel/keras-bilevel/blob/main/colab/{name}.ipynb)"
)
_SMALL = "KERAS_BILEVEL_SMALL"


def notebook(source):
    """Returns the notebook of a source, not run.

    Args:
        source: `pathlib.Path` of a Python file.
    """
    header, *cells = _cells(source.read_text())
    made = [v4.new_markdown_cell(_title(header, source.stem))]
    made += [
        v4.new_code_cell(text) if kind == "code" else v4.new_markdown_cell(text)
        for kind, text in cells
    ]
    for number, cell in enumerate(made):
        # Random by default, so that no two notebooks were the same.
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    if "GPU" in header[1]:
        metadata["accelerator"] = "GPU"
    return v4.new_notebook(cells=made, metadata=metadata)


def _cells(text):
    """Returns a list of `(kind, text)` of the cells of a source."""
    lines = text.splitlines()
    cells, begin = [], 0
    for node in ast.parse(text).body:
        is_text = isinstance(node, ast.Expr) and isinstance(
            node.value, ast.Constant
        )
        if not is_text:
            continue
        cells.append(("code", "\n".join(lines[begin : node.lineno - 1])))
        begin = node.end_lineno
        words = textwrap.dedent(node.value.value).strip()
        kind, _, rest = words.partition("\n")
        if kind == "shell":
            # A command may go on in the next line.
            commands = re.sub(r"(?<!\\)\n", "\n!", rest)
            cells.append(("code", f"!{commands}"))
        else:
            cells.append(("text", words))
    cells.append(("code", "\n".join(lines[begin:])))
    return [(kind, t.strip()) for kind, t in cells if t.strip()]


def _title(header, name):
    """Returns the first cell: title, description and a badge."""
    fields = dict(line.split(": ", 1) for line in header[1].splitlines())
    missing = [field for field in FIELDS if field not in fields]
    if missing:
        raise ValueError(f"Expected the fields {FIELDS}. Missing: {missing}")
    credits = "<br>\n".join(
        f"**{field}:** {fields[field]}" for field in FIELDS[1:]
    )
    return f"# {fields['Title']}\n\n{credits}\n\n{BADGE.format(name=name)}"


def run(made):
    """Runs a notebook, in a folder that is removed afterwards.

    Args:
        made: What `notebook` returned. It gets the outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    from nbconvert.preprocessors import ExecutePreprocessor

    # Shell cells are to find this Python's packages.
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    os.environ["PATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        ExecutePreprocessor(timeout=600).preprocess(made, resources)


def write(made, path):
    """Writes a notebook as Jupyter does, one change a line."""
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def main(arguments):
    for source in SOURCES:
        made = notebook(source)
        nbformat.validate(made)
        if "--run" in arguments:
            size = "small" if os.environ.get(_SMALL) else "full"
            print(f"Running {source.name} at its {size} setting.", flush=True)
            run(made)
        write(made, source.with_suffix(".ipynb"))
        print(f"Wrote {source.with_suffix('.ipynb').name}.", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
