"""Which room of the package may know what."""

import ast
import graphlib
import pathlib

import pytest

import keras_bilevel

PACKAGE = pathlib.Path(keras_bilevel.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Where backends are known: TensorFlow makes the batches of all of them.
KNOW = {
    "tensorflow": ("engine/tensorflow", "data"),
    "jax": ("engine/jax",),
}
# TensorFlow, or `None` where it is missing.
MAYBE = "keras_bilevel._backend.tf"
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


def knows(backend, file, **kwargs):
    names = imported(file, **kwargs)
    names = ["tensorflow" if name == MAYBE else name for name in names]
    return backend in [name.split(".")[0] for name in names]


@pytest.mark.parametrize("backend", list(KNOW))
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_backend_is_known_in_its_rooms_alone(file, backend):
    place = file.relative_to(PACKAGE).as_posix()
    if place.startswith(KNOW[backend]):
        return
    # One function of the private names looks up TensorFlow's gradients.
    everywhere = place != "keras_private.py"
    assert not knows(backend, file, everywhere=everywhere)


@pytest.mark.parametrize("backend", list(KNOW))
def test_rooms_that_may_know_a_backend_do(backend):
    for room in KNOW[backend]:
        assert any(knows(backend, f) for f in (PACKAGE / room).rglob("*.py"))


def test_shared_code_of_the_engine_names_no_backend():
    for file in (PACKAGE / "engine").glob("*.py"):
        assert not any("engine.tensorflow" in name for name in imported(file))
        assert not any("engine.jax" in name for name in imported(file))


def test_backends_have_what_the_engine_asks_for():
    asked = {}
    for file in (PACKAGE / "engine").glob("*.py"):
        tree = ast.parse(file.read_text())
        modules = [
            name.rpartition(".")[2]
            for name in imported(file)
            if name.startswith("keras_bilevel.engine.backend.")
        ]
        for node in ast.walk(tree):
            owner = getattr(getattr(node, "value", None), "id", None)
            if isinstance(node, ast.Attribute) and owner in modules:
                asked.setdefault(owner, set()).add(node.attr)
    assert {"gradients", "replicas", "shards"} <= set(asked)
    for module, names in asked.items():
        for backend in KNOW:
            path = PACKAGE / "engine" / backend / f"{module}.py"
            body = ast.parse(path.read_text()).body
            there = {getattr(node, "name", None) for node in body}
            assert names <= there, (path, names - there)


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
