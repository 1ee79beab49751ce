"""Settings of the site: `make docs`."""

import inspect
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path[:0] = [
    str(pathlib.Path(__file__).resolve().parent),
    str(pathlib.Path(__file__).resolve().parent.parent),
]

from sphinx.domains.python import PyObject

import keras_bilevel

project = "keras_bilevel"
author = "The keras_bilevel authors"
release = version = keras_bilevel.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "markdown_docstrings",
    "repository_pages",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"keras_bilevel {release}"
html_show_copyright = False

# Headings can be linked to as `page.md#heading`, as on forges.
myst_heading_anchors = 3
# "```math" is shown as a formula on forges too.
myst_fence_as_directive = ["math"]
# They are run by the tests, at a small size, and not here.
nb_execution_mode = "off"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
# What Keras says of a method that is overridden is in Keras' own reference.
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# `lambda_` keeps its underscore.
strip_signature_backslash = True
napoleon_custom_sections = ["Reference"]


def _signature_of_init(app, what, name, obj, options, signature, returns):
    # Layers and models of Keras have a `__new__` that takes anything.
    if what != "class" or obj.__init__ is object.__init__:
        return None
    _, *arguments = inspect.signature(obj.__init__).parameters.values()
    return str(inspect.Signature(arguments)), returns


def setup(app):
    app.connect("autodoc-process-signature", _signature_of_init)
    for field in PyObject.doc_field_types:
        # Variables are something else in Keras.
        if field.name == "variable":
            field.label = "Attributes"
