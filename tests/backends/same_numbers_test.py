"""The same numbers with TensorFlow, with JAX, and with JAX alone."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.backends import cases
from tests.backends import drawn

ROOT = Path(__file__).parents[2]
# The other groups run where JAX and TensorFlow both are.
WITHOUT_TENSORFLOW = ("shards", "selection")
# Networks of several outputs, among others; any seeds will do.
SEEDS = os.environ.get("DRAWN_NETWORKS", "2 3").split()


def without_tensorflow(folder):
    """Fills a folder with all installed packages except TensorFlow.

    Returns:
        List of options of Python, and a dict of environment variables, with
        which a process finds these packages only.
    """
    folder.mkdir(exist_ok=True)
    for package in Path(keras.__file__).parents[1].iterdir():
        if not package.name.startswith(("tensorflow", "tf_", "__editable__")):
            link = folder / package.name
            link.exists() or link.symlink_to(package)
    # With `-S`, Python does not look into its own folder of packages.
    return ["-S"], {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def run_with_jax(arguments, folder=None):
    """Runs Python with JAX; a folder makes it run without TensorFlow."""
    options, environment = without_tensorflow(folder) if folder else ([], {})
    environment["KERAS_BACKEND"] = "jax"
    # Compiling takes most of the time, and is done once for each step.
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    done = subprocess.run(
        [sys.executable, *options, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("group", list(cases.CASES))
def test_backends_give_the_same_numbers(group, tmp_path):
    pytest.importorskip("jax")
    path, packages = tmp_path / "numbers.npz", tmp_path / "packages"
    run_with_jax(
        ["-m", "tests.backends.cases", group, path],
        packages if group in WITHOUT_TENSORFLOW else None,
    )
    theirs = dict(np.load(path))
    for name, run in cases.CASES[group].items():
        ours = {f"{name}/{key}": value for key, value in run().items()}
        assert ours.keys() == {
            key for key in theirs if key.startswith(f"{name}/")
        }
        for key, value in ours.items():
            np.testing.assert_allclose(
                theirs[key], value, rtol=1e-5, atol=1e-5, err_msg=key
            )


@pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with")
def test_drawn_networks_take_the_same_steps(tmp_path):
    pytest.importorskip("jax")
    begin = {k: v for s in SEEDS for k, v in drawn.start(int(s)).items()}
    paths = tmp_path / "start.npz", tmp_path / "found.npz"
    np.savez(paths[0], **begin)
    run_with_jax(["-m", "tests.backends.drawn", *paths, *SEEDS])
    theirs = dict(np.load(paths[1]))
    assert theirs, "Keras refuses all of these networks under JAX."
    for seed in SEEDS:
        for key, value in drawn.steps(int(seed), begin).items():
            # Changes are as large as gradients; float32 has seven digits.
            largest = max(1.0, np.abs(value).max())
            np.testing.assert_allclose(
                theirs.pop(key), value, rtol=0, atol=1e-5 * largest, err_msg=key
            )
    assert not theirs


def test_tensorflow_is_missing_where_it_should_be(tmp_path):
    pytest.importorskip("jax")
    code = """
import importlib.util
import keras_bilevel as kb
assert importlib.util.find_spec("tensorflow") is None
x, y = [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]
print(type(kb.data.shuffled_batches((x, y), 2)).__name__)
"""
    assert run_with_jax(["-c", code], tmp_path) == "NumpyBatches\n"
