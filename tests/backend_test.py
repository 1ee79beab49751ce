"""Without what Keras needs, or with two TensorFlows, the import says so."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_bilevel
from keras_bilevel import _backend

ROOT = Path(keras_bilevel.__file__).parents[1]
INSTALL = r"pip install 'keras-bilevel\[cpu\]'"
BUILDS = ["tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly-cpu"]


def add_build(folder, name):
    """Makes a folder on the path look as if pip had put a build into it."""
    info = folder / f"{name.replace('-', '_')}-2.21.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 2.21.0\n")


@pytest.fixture
def only(tmp_path, monkeypatch):
    """A folder that is all of `sys.path`."""
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def builds_found():
    return [name for name in _backend._BUILDS if _backend._is_installed(name)]


def test_this_environment_passes():
    _backend.find_tensorflow()
    assert len(builds_found()) == 1


@pytest.mark.parametrize("folder", [None, "tensorflow/include"])
def test_missing_tensorflow_is_an_error(only, folder):
    if folder:  # What an uninstall may leave behind.
        (only / folder).mkdir(parents=True)
    with pytest.raises(ImportError, match=f"needs TensorFlow.*\n{INSTALL}"):
        _backend.find_tensorflow()


@pytest.mark.parametrize("build", BUILDS)
def test_one_build_passes(only, build):
    add_build(only, build)
    (only / "tensorflow").mkdir()
    module = only / "tensorflow/__init__.py"
    module.touch()
    _backend.find_tensorflow()
    assert builds_found() == [build]
    assert importlib.util.find_spec("tensorflow").origin == str(module)


@pytest.mark.parametrize("builds", [BUILDS[:2], BUILDS[1:3], BUILDS[2:]])
def test_two_builds_are_an_error(only, builds):
    for build in builds:
        add_build(only, build)
    with pytest.raises(ImportError, match=f"{', '.join(builds)}.*\n{INSTALL}"):
        _backend.find_tensorflow()


def test_build_without_its_files_is_an_error(only):
    add_build(only, "tensorflow-cpu")
    (only / "tensorflow/python").mkdir(parents=True)
    with pytest.raises(ImportError, match="whole TensorFlow.*tensorflow-cpu"):
        _backend.find_tensorflow()


def test_other_backend_is_an_error(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="'torch'.*KERAS_BACKEND=tensorflow"):
        _backend.check_backend()


def test_import_of_the_package_is_what_checks():
    # `-I -S` leaves the standard library: no TensorFlow, and no Keras either.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "import keras_bilevel"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert run.returncode == 1
    *_, install, other = run.stderr.splitlines()
    assert install.startswith("pip install") and "KERAS_BACKEND=jax" in other
    assert "ImportError: keras_bilevel needs TensorFlow" in run.stderr
