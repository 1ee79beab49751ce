"""
Title: Several devices, and TPUs
Author: keras_bilevel
Date created: 2026/11/25
Last modified: 2026/11/25
Description: The same training on one device and on several, with the same answer.
Accelerator: GPU
"""

"""
## The same step on any number of devices

A weight of this package compares gradients. With several devices, they have to
be compared over all of them, or the method would change with the number of
devices. Here it does not: n replicas with k shards each take the step of one
device with n k shards.

This notebook makes two devices out of one processor, so that it runs anywhere.
"""

"""shell
python -c "import keras_bilevel" 2>/dev/null || pip install -q "keras-bilevel[plots]" scikit-learn
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_bilevel as kb

# A smaller run, for computers without a GPU.
SMALL = bool(os.environ.get("KERAS_BILEVEL_SMALL"))
EPOCHS = 3 if SMALL else 10

"""
## Two devices

With two GPUs, leave this cell out: `MirroredStrategy()` finds them.
"""

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    processor, [tf.config.LogicalDeviceConfiguration()] * 2
)

images, labels = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
y_noisy, _ = kb.data.noise.symmetric(labels, 0.5, seed=0)

"""
## Make and compile under the strategy

Nothing else changes. `batch_size` counts the examples of all replicas,
`num_shards` the shards of each.
"""


def train(strategy, num_shards, num_validation_shards):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model = kb.BilevelModel(
            network,
            weighting=kb.weighting.DeepBilevel(
                num_shards, num_validation_shards=num_validation_shards
            ),
        )
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    # The same order of examples in both runs.
    keras.utils.set_random_seed(1)
    history = model.fit(
        images, y_noisy, batch_size=128, epochs=EPOCHS, verbose=0
    )
    return network.get_weights(), history.history


one, curves_of_one = train(
    tf.distribute.OneDeviceStrategy("CPU:0"),
    num_shards=16,
    num_validation_shards=2,
)
two, curves_of_two = train(
    tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    num_shards=8,
    num_validation_shards=1,
)

"""
## The same answer

The weights differ by rounding, and so do loss and metrics.
"""

largest = max(np.max(np.abs(a - b)) for a, b in zip(one, two))
print(f"Largest difference of a weight: {largest:.1e}")
for name in ("loss", "accuracy"):
    print(
        name, np.round(curves_of_one[name], 4), np.round(curves_of_two[name], 4)
    )

"""
## On a TPU

All shapes are static, so the step compiles for TPUs. Choose a TPU runtime, and
this cell trains on it. It does nothing on other computers.
"""

if os.environ.get("COLAB_TPU_ADDR") or os.environ.get("TPU_NAME"):
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
    _, curves = train(strategy, num_shards=8, num_validation_shards=1)
    print(curves["loss"])
else:
    print("No TPU here.")

"""
## Several machines

`tf.distribute.MultiWorkerMirroredStrategy` works the same way: the guide to
several devices in the documentation has a script to start.
"""
