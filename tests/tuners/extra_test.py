"""What is said where a library is missing."""

import pytest

import keras_bilevel as kb
from keras_bilevel.extras import import_extra


def test_error_without_an_extra():
    with pytest.raises(ImportError, match=r"keras-bilevel\[tuner\]"):
        import_extra("no_such_library.module", "tuner")
    with pytest.raises(ImportError, match=r"keras-bilevel\[plots\]"):
        import_extra("no_such_library", "plots")


def test_error_for_a_wrong_name():
    with pytest.raises(AttributeError, match="no_such_name"):
        kb.no_such_name
