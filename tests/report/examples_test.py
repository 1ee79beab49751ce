"""The examples in the docstrings say what happens."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import keras_bilevel as kb
import keras_bilevel.report

MODULES = [m.name for m in pkgutil.iter_modules(kb.report.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"keras_bilevel.report.{name}")
    flags = doctest.NORMALIZE_WHITESPACE
    names = {"kb": kb, "np": np}
    result = doctest.testmod(module, extraglobs=names, optionflags=flags)
    assert result.failed == 0
