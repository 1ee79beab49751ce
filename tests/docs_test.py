"""The code in the guides runs, and the site has what it should."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys

import keras
import matplotlib.pyplot
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from docs import markdown_docstrings
from docs import repository_pages
from tests.public_test import NAMES

ROOT = repository_pages.ROOT
DOCS = ROOT / "docs"
# Its code needs images: tests/benchmarks/folder_of_images_test.py runs it.
OWN_TEST = DOCS / "folder_of_images.md"
PAGES = [ROOT / "README.md", *sorted({*DOCS.glob("*.md")} - {OWN_TEST})]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What would take long, or stands for something.
SHORTER = {
    r"\bepochs=\d+": "epochs=2",
    r"\bmax_trials=\d+": "max_trials=2",
    r"\bshards=\[8, 32\], repeats=\d+": "shards=[8], repeats=2",
    r"\[\.\.\.\]": "[keras.layers.Flatten(), keras.layers.Dense(8)]",
}
NUM = 640


def blocks(page):
    """Returns the code of a page, but for what another test runs."""
    found = BLOCK.findall(page.read_text())
    # tests/distribute/docs_test.py, tests/backends/jax_test.py
    others = ("MultiWorker", "KERAS_BACKEND")
    return [code for code in found if not any(o in code for o in others)]


def make_network():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(10, "softmax"),
        ]
    )


def names(page):
    """Returns what the guides take for granted."""
    rng = np.random.default_rng(0)
    y = np.arange(NUM) % 5
    x = rng.normal(y[:, None, None, None], size=(NUM, 28, 28, 1))
    x = x.astype("float32")
    wrong = rng.random(NUM) < 0.4
    model = kb.BilevelModel(make_network(), kb.weighting.DeepBilevel(8))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return {
        "kb": kb,
        "keras": keras,
        "tf": tf,
        "np": np,
        "x": x,
        "y": np.where(wrong, (y + 1) % 5, y),
        "wrong": wrong,
        "make_network": make_network,
        "net": make_network(),
        "net_a": make_network(),
        "net_b": make_network(),
        "model": model,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{f"x_{name}": x[:128] for name in ("clean", "val", "unlabelled")},
        **{f"y_{name}": y[:128] for name in ("clean", "val")},
        "x_source": x,
        "y_source": y,
        "dataset_of_single_examples": tf.data.Dataset.from_tensor_slices(
            (x, y)
        ),
    }


@pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = names(page)
    for code in blocks(page):
        for pattern, shorter in SHORTER.items():
            code = re.sub(pattern, shorter, code)
        exec(compile(code, str(page), "exec"), namespace)
    matplotlib.pyplot.close("all")


# Those of `report` have a test of their own.
ROOMS = [module for module in NAMES if module not in (kb, kb.report)]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_examples_in_docstrings_say_what_happens(room):
    files = [room.__name__]
    for found in pkgutil.iter_modules(getattr(room, "__path__", [])):
        if not found.name.startswith("_"):
            files.append(f"{room.__name__}.{found.name}")
    for file in files:
        result = doctest.testmod(
            importlib.import_module(file),
            extraglobs={"kb": kb, "np": np, "tf": tf, "keras": keras},
            optionflags=doctest.NORMALIZE_WHITESPACE,
        )
        assert result.failed == 0, file


def test_docstrings_become_what_sphinx_reads():
    assert doctest.testmod(markdown_docstrings).failed == 0
    text = "Takes `a`s.\n- [b](https://a.b)\n\n    ```\n    c\n    ```\n>>> `d`"
    assert "\n".join(markdown_docstrings.restructured(text.split("\n"))) == (
        "Takes ``a``\\ s.\n\n- `b <https://a.b>`__\n\n"
        "    .. code-block:: text\n\n       c\n\n>>> `d`"
    )


def test_the_reference_has_all_public_names():
    reference = {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(
            r"^\.\. auto(?:class|function):: (\S+)",
            page.read_text(),
            re.MULTILINE,
        )
    }
    public = {
        f"{module.__name__}.{name}"
        for module in NAMES
        for name in dir(module)
        if callable(getattr(module, name))
    }
    assert reference == public


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in contents, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    origin = page.relative_to(ROOT).as_posix()
    pages = repository_pages.placed()
    changed = repository_pages.with_site_links(
        page.read_text(), origin, "page.md", pages
    )
    assert "](../" not in changed


def test_a_link_that_leads_nowhere_is_an_error():
    with pytest.raises(ValueError, match="leads nowhere: lost.md"):
        repository_pages.with_site_links(
            "[a](lost.md)", "docs/index.md", "index.md", {}
        )


def test_advice_rests_on_results():
    results = "".join(
        page.read_text() for page in (ROOT / "benchmarks/results").glob("*.md")
    )
    pages = ("which_method", "sharp_edges", "faq", "coming_from")
    pages = [DOCS / f"{page}.md" for page in pages]
    pages.append(ROOT / "benchmarks" / "RESULTS.md")
    advice = "".join(page.read_text() for page in pages)
    measured = re.findall(r"0\.\d{3}(?: ± 0\.\d{3})?", advice)
    assert len(measured) > 50
    assert [number for number in measured if number not in results] == []


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
    made = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "api" / "weighting.html").exists()
