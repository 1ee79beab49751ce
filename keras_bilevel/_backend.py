"""Finds TensorFlow at import, and says how to get it where it is missing."""

import importlib.metadata
import importlib.util

# What brings the `tensorflow` folder; under Windows and on ARM some of them
# bring it through a further package, which is not a build of its own.
_BUILDS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tf-nightly",
    "tf-nightly-cpu",
)
_INSTALL = (
    "pip install 'keras-bilevel[cpu]'    (or [cuda], or [tpu]; exactly one)"
)


def _is_installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_tensorflow():
    """Raises `ImportError` unless there is exactly one TensorFlow build."""
    builds = [name for name in _BUILDS if _is_installed(name)]
    if len(builds) > 1:
        raise ImportError(
            "Expected one build of TensorFlow, they overwrite each other's "
            f"files. Received: {', '.join(builds)}. Uninstall them all, then "
            f"install one:\n{_INSTALL}"
        )
    spec = importlib.util.find_spec("tensorflow")
    if spec is None:
        raise ImportError(
            f"keras_bilevel needs TensorFlow. Install one build:\n{_INSTALL}"
        )
    if spec.origin is None:
        # Uninstalling one build of two takes away files of the other.
        raise ImportError(
            "Expected a whole TensorFlow. Received: a folder without "
            f"`__init__.py`, {list(spec.submodule_search_locations)}. "
            f"Uninstall {' and '.join(builds) or 'it'}, then install one "
            f"build:\n{_INSTALL}"
        )


check_tensorflow()
