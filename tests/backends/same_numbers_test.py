"""TensorFlow and JAX give the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backends import cases

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Returns the numbers of a group of runs under JAX."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("numbers")
    known = {}

    def of(group):
        if group not in known:
            path = folder / f"{group}.npz"
            subprocess.run(
                [sys.executable, "-m", "tests.backends.cases", group, path],
                cwd=ROOT,
                env=os.environ | {"KERAS_BACKEND": "jax"},
                check=True,
            )
            known[group] = dict(np.load(path))
        return known[group]

    return of


@pytest.mark.parametrize("group", list(cases.CASES))
def test_backends_give_the_same_numbers(group, numbers):
    theirs = numbers(group)
    for name, run in cases.CASES[group].items():
        ours = {f"{name}/{key}": value for key, value in run().items()}
        assert ours.keys() == {
            key for key in theirs if key.startswith(f"{name}/")
        }
        for key, value in ours.items():
            np.testing.assert_allclose(
                theirs[key], value, rtol=1e-5, atol=1e-5, err_msg=key
            )
