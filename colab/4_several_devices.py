"""
Title: Several devices, and TPUs
Author: keras_bilevel
Date created: 2026/11/25
Last modified: 2026/12/01
Description: The same training, and the same answer, on any number of devices.
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
python -c "import keras_bilevel" 2>/dev/null \\
    || pip install -q "keras-bilevel[notebooks]"
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_bilevel as kb

tf.get_logger().setLevel("ERROR")
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

"""
## Make and compile under the strategy

Nothing else changes in your code. `num_shards` counts the shards of each
replica, and `batch_size` of `fit` the examples of all replicas.
"""

images, labels = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
y_noisy, _ = kb.data.noise.symmetric(labels, 0.5, seed=0)


def make_model(strategy, num_shards, num_validation_shards=1):
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
    return model


two = make_model(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), 8)
two.fit(images, y_noisy, batch_size=128, epochs=EPOCHS, verbose=2)

"""
## The same answer

One device with 16 shards, of which 2 validate, takes the same steps as these
two with 8 shards each, of which one validates. To see that, both have to get
the same super-batches. A super-batch for two replicas is the first replica's
shards and then the second's; on one device, all validation shards come first.
"""

for_two = kb.data.stratified_batches(
    (images, y_noisy), num_shards=8, shard_size=8, num_replicas=2, seed=0
)
ORDER = [0, 8, *range(1, 8), *range(9, 16)]


def in_order_of_one(*batch):
    def reorder(tensor):
        shards = tf.reshape(tensor, (16, 8, *tensor.shape[1:]))
        return tf.reshape(tf.gather(shards, ORDER), tensor.shape)

    return tuple(reorder(tensor) for tensor in batch)


for_one = kb.data.stratified_batches(
    (images, y_noisy), num_shards=8, shard_size=8, num_replicas=2, seed=0
).map(in_order_of_one)

one = make_model(tf.distribute.OneDeviceStrategy("CPU:0"), 16, 2)
two = make_model(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), 8)
for name, model, dataset in (("one", one, for_one), ("two", two, for_two)):
    history = model.fit(dataset, epochs=EPOCHS, verbose=0).history
    print(name, "loss:", np.round(history["loss"], 5))

largest = max(
    np.max(np.abs(a - b))
    for a, b in zip(one.model.get_weights(), two.model.get_weights())
)
print(f"Largest difference of a weight: {largest:.1e}")

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
    on_tpu = make_model(strategy, 8)
    shards = 8 * strategy.num_replicas_in_sync
    on_tpu.fit(images, y_noisy, batch_size=4 * shards, epochs=EPOCHS, verbose=2)
else:
    print("No TPU here.")

"""
## With JAX

A notebook has one backend. In a new one, choose JAX before anything imports
Keras, and say once that all devices share each batch. There is no scope, and
`num_shards` counts the shards of all devices:

```python
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras

import keras_bilevel as kb

keras.distribution.set_distribution(keras.distribution.DataParallel())
model = kb.BilevelModel(network, kb.weighting.DeepBilevel(num_shards=16))
```
"""

"""
## Several machines

`tf.distribute.MultiWorkerMirroredStrategy` works the same way: the guide to
several devices in the documentation has a script to start.
"""
