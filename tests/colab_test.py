"""The notebooks are those of their sources, and run."""

import json
import os
import subprocess
import sys

import pytest

from colab import notebooks

# Real images; the notebooks do without where they are missing.
DATA_DIR = (notebooks.FOLDER.parent / "../shared/data/tfds").resolve()
SOURCES = pytest.mark.parametrize(
    "source", notebooks.SOURCES, ids=lambda source: source.stem
)


def test_there_are_some():
    assert len(notebooks.SOURCES) >= 4


@SOURCES
def test_notebook_is_that_of_its_source(source):
    kept = json.loads(source.with_suffix(".ipynb").read_text())
    assert kept == notebooks.notebook(source), "Run `make notebooks`."


@SOURCES
def test_notebook_runs_at_its_small_setting(source, tmp_path):
    code = (
        "import pathlib; from colab import notebooks; "
        f"made = notebooks.notebook(pathlib.Path({str(source)!r})); "
        "notebooks.run(made); "
        f"notebooks.write(made, pathlib.Path({str(tmp_path / 'run.ipynb')!r}))"
    )
    # Figures of other tests are not inline.
    inherited = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    environment = {
        **inherited,
        "KERAS_BILEVEL_SMALL": "1",
        **({"KERAS_BILEVEL_DATA": str(DATA_DIR)} if DATA_DIR.is_dir() else {}),
        "IPYTHONDIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    cells = json.loads((tmp_path / "run.ipynb").read_text())["cells"]
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    assert any(output["output_type"] == "stream" for output in outputs)
    has_figures = "plot" in source.read_text()
    assert has_figures == any("image/png" in o.get("data", {}) for o in outputs)


def test_a_source_without_a_field_is_an_error(tmp_path):
    source = tmp_path / "1_mine.py"
    source.write_text('"""\nTitle: Mine\n"""\nx = 1\n')
    with pytest.raises(ValueError, match="Missing: .*'Author'"):
        notebooks.notebook(source)


def test_cells_are_text_code_and_shell(tmp_path):
    source = tmp_path / "1_mine.py"
    fields = "\n".join(f"{field}: one" for field in notebooks.FIELDS)
    source.write_text(
        f'"""\n{fields}\n"""\n\n"""\n## Text\n"""\n\n"""shell\n'
        'a \\\\\n    b\nc\n"""\nx = 1\n\n\ndef f():\n    """No cell."""\n'
    )
    cells = notebooks.notebook(source)["cells"]
    assert [cell["cell_type"] for cell in cells] == [
        "markdown",
        "markdown",
        "code",
        "code",
    ]
    assert cells[1]["source"] == "## Text"
    assert cells[2]["source"] == "!a \\\n    b\n!c"
    assert cells[3]["source"] == 'x = 1\n\n\ndef f():\n    """No cell."""'
