"""Which room of the package may know what."""

import ast
import graphlib
import pathlib

import pytest

import keras_bilevel

PACKAGE = pathlib.Path(keras_bilevel.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# The rooms that know TensorFlow, which are the seam for another backend.
KNOW_TENSORFLOW = ("engine", "data")
ROWS = {
    f"keras_bilevel.engine.{verb}_rows" for verb in ("add", "read", "write")
}
# Pure maths, and the little that it may borrow.
PURE = {
    "weighting": ROWS,
    "schedules": {"keras_bilevel.extras"},
    "selection": ROWS,
    "losses": set(),
    "layers": set(),
}


def imported(file, everywhere=True):
    """Returns the names of the modules that a file imports.

    Args:
        file: A `pathlib.Path`.
        everywhere: Boolean, whether imports in functions count.
    """
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def knows_tensorflow(file, **kwargs):
    modules = [name.split(".")[0] for name in imported(file, **kwargs)]
    return "tensorflow" in modules


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tensorflow_is_known_in_two_rooms(file):
    room = file.relative_to(PACKAGE).parts[0]
    if room in KNOW_TENSORFLOW:
        return
    # One function of the private names looks up TensorFlow's gradients.
    everywhere = room != "keras_private.py"
    assert not knows_tensorflow(file, everywhere=everywhere)


def test_rooms_that_may_know_tensorflow_do():
    rooms = {
        file.relative_to(PACKAGE).parts[0]
        for file in FILES
        if knows_tensorflow(file)
    }
    assert rooms == {*KNOW_TENSORFLOW, "keras_private.py"}


@pytest.mark.parametrize("room", list(PURE))
def test_pure_maths_borrows_little(room):
    for file in sorted((PACKAGE / room).rglob("*.py")):
        own = [n for n in imported(file) if n.startswith("keras_bilevel")]
        may = {f"keras_bilevel.{room}", "keras_bilevel.checks", *PURE[room]}
        for name in own:
            assert name.startswith(tuple(may)), (file.name, name)


def test_arrows_between_rooms_run_one_way():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    graph = {room: set() for room in rooms}
    for file in FILES:
        room = file.relative_to(PACKAGE).parts[0]
        for name in imported(file):
            _, *parts = [*name.split("."), ""]
            if room in rooms and name.startswith("keras_bilevel."):
                graph[room] |= {parts[0]} & rooms - {room}
    # Raises an error where arrows run in a circle.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("data") < order.index("engine")
    assert order.index("engine") < order.index("schemes")
    assert order.index("schemes") < order.index("models")
