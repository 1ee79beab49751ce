"""Finds TensorFlow at import, and says how to get it where it is missing."""

import importlib.metadata
import importlib.util

_BUILDS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
_INSTALL = (
    "pip install 'keras-bilevel[cpu]'    (or [cuda], or [tpu]; exactly one)"
)


def _installed_builds():
    return [name for name in _BUILDS if _is_installed(name)]


def _is_installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_tensorflow():
    """Raises `ImportError` unless there is exactly one TensorFlow build."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            f"keras_bilevel needs TensorFlow. Install one build:\n{_INSTALL}"
        )
    builds = _installed_builds()
    if len(builds) > 1:
        raise ImportError(
            "Expected one build of TensorFlow, they overwrite each other's "
            f"files. Received: {', '.join(builds)}. Uninstall them all, then "
            f"install one:\n{_INSTALL}"
        )


check_tensorflow()
