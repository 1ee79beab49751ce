"""KerasTuner is asked for only by those who search."""

import os
import subprocess
import sys

import pytest

import keras_bilevel as kb
from keras_bilevel.tuners import _extra


def test_package_does_not_import_keras_tuner():
    code = (
        "import sys, keras_bilevel as kb; "
        "assert 'keras_tuner' not in sys.modules; "
        "kb.tuners.S2ETuner; "
        "assert 'keras_tuner' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_error_without_an_extra():
    with pytest.raises(ImportError, match=r"keras-bilevel\[tuner\]"):
        _extra.import_extra("no_such_library.module")
    with pytest.raises(ImportError, match=r"keras-bilevel\[plots\]"):
        _extra.import_extra("no_such_library", "plots")


def test_error_for_a_wrong_name():
    with pytest.raises(AttributeError, match="no_such_name"):
        kb.no_such_name
