import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.python.framework import ops as tf_ops  # noqa: E402

# Replicas for tests under strategies; no other test puts anything there.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)

# Tracing makes many objects: collected as often as by default they take a fifth
# of the time of all tests.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 10, 10)


@pytest.fixture(autouse=True, scope="module")
def few_objects_to_collect():
    """Frees what other modules have traced, and leaves the rest alone.

    TensorFlow keeps every graph with a `tf.custom_gradient`, such as that of
    some optimizers of Keras: gigabytes in the end. Some tests collect a lot of
    garbage, through `keras.backend.clear_session` or KerasTuner.
    """
    gradients = tf_ops.gradient_registry._registry
    for name in [n for n in gradients if n.startswith("CustomGradient-")]:
        del gradients[name]
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
