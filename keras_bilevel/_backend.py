"""Finds TensorFlow at import, and says how to get it where it is missing.

tf.data makes the batches, under both backends of Keras. Under JAX, TensorFlow
may be missing. Then NumPy makes the batches of arrays.
"""

import importlib
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
_OR_JAX = "Or install JAX, and set the environment variable KERAS_BACKEND=jax."


def _is_installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_tensorflow():
    """Returns the module `tensorflow`, or `None` where Keras does without it.

    Raises:
        ImportError: If Keras needs it, or if there is more than one build.
    """
    builds = [name for name in _BUILDS if _is_installed(name)]
    if len(builds) > 1:
        raise ImportError(
            "Expected one build of TensorFlow, they overwrite each other's "
            f"files. Received: {', '.join(builds)}. Uninstall them all, then "
            f"install one:\n{_INSTALL}"
        )
    spec = importlib.util.find_spec("tensorflow")
    whole = spec is not None and spec.origin is not None
    if not whole and not builds:
        _check_keras()
        return None
    if not whole:
        # Uninstalling one build of two takes away files of the other.
        raise ImportError(
            f"Expected a whole TensorFlow. Received: {builds[0]} without its "
            f"files. Uninstall it, then install one build:\n{_INSTALL}"
        )
    return importlib.import_module("tensorflow")


def _check_keras():
    try:
        import keras  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "keras_bilevel needs TensorFlow under Keras' TensorFlow backend. "
            f"Install one build:\n{_INSTALL}\n{_OR_JAX}"
        ) from error


def check_backend():
    """Raises `RuntimeError` for a backend of Keras that is not supported."""
    # Not at the top of the file: Keras needs TensorFlow for its import.
    import keras

    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow"):
        raise RuntimeError(
            "Expected the TensorFlow or the JAX backend of Keras. Received: "
            f"backend={backend!r}. Set the environment variable "
            "KERAS_BACKEND=tensorflow, or KERAS_BACKEND=jax, before "
            "`import keras`."
        )


tf = find_tensorflow()
check_backend()
