"""Training runs that must end alike, however many devices share them."""

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb

INPUTS, CLASSES = 5, 3
# Of each replica.
SHARDS, SHARD_SIZE = 3, 4
SOURCE_SIZE, TARGET_SIZE = 16, 8

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    # Both also see the regulariser, which is theirs to add once.
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.02),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.02),
    "clipvalue": lambda: keras.optimizers.SGD(0.1, clipvalue=0.005),
    "ema": lambda: keras.optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=5
    ),
}


def mirrored(num_replicas):
    """Returns a strategy on so many logical CPUs."""
    # The default's collective ops take no two sizes of groups in one process.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(num_replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def network(**kwargs):
    # The same weights each time, whatever was drawn before.
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(7, activation="tanh", **kwargs),
            keras.layers.Dense(CLASSES),
        ]
    )


def compiled(strategy, weighting, optimizer="sgd", make=network, **kwargs):
    """Returns a compiled model, made under the strategy.

    Args:
        strategy: A `tf.distribute.Strategy`.
        weighting: Function that returns a weighting.
        optimizer: Key of `OPTIMIZERS`, or a function.
        make: Function that returns the network.
        **kwargs: Further arguments of `compile`.
    """
    with strategy.scope():
        model = kb.BilevelModel(make(), weighting())
        model.compile(
            OPTIMIZERS.get(optimizer, optimizer)(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **kwargs,
        )
    return model


def examples(size=240, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, INPUTS)).astype("float32")
    return x, rng.integers(0, CLASSES, size)


def deep_bilevel(strategy, replicas, validation=1, **options):
    """Returns the weighting for the super-batches of so many replicas.

    Args:
        strategy: A `tf.distribute.Strategy` with as many, or one.
        replicas: Integer.
        validation: Integer, validation shards of a replica.
        **options: Further arguments of `DeepBilevel`.
    """
    devices = strategy.num_replicas_in_sync
    return kb.weighting.DeepBilevel(
        SHARDS * replicas // devices,
        num_validation_shards=validation * replicas // devices,
        **options,
    )


def super_batches(strategy, replicas, data, **options):
    """Returns the super-batches of so many replicas, or one device's."""
    dataset = kb.data.stratified_batches(
        data,
        SHARDS,
        SHARD_SIZE,
        num_replicas=replicas,
        ids=True,
        seed=3,
        **options,
    )
    if strategy.num_replicas_in_sync == replicas:
        return dataset
    # One device's validation shards come first.
    order = np.arange(replicas * SHARDS * SHARD_SIZE)
    order = order.reshape(replicas, SHARDS, SHARD_SIZE)
    order = np.concatenate([order[:, :1].ravel(), order[:, 1:].ravel()])
    # A dataset of another layout, which nothing is to be known of.
    dataset = dataset.map(
        lambda *parts: tuple(tf.gather(part, order) for part in parts)
    )
    return unmarked(dataset)


def unmarked(dataset):
    """Returns a dataset of which the package does not know that it made it."""
    return tf.data.Dataset.from_tensor_slices(
        tuple(np.stack(part) for part in zip(*dataset.as_numpy_iterator()))
    )


def source_target(data, **options):
    x, y = data
    return kb.data.source_target_batches(
        data,
        (x[:32], y[:32]),
        SOURCE_SIZE,
        TARGET_SIZE,
        **{"seed": 3, **options},
    )


def copies(variable):
    """Returns each local replica's copy of a Keras variable."""
    value = getattr(variable, "value", variable)
    return [v.numpy() for v in getattr(value, "values", [value])]


def outcome(model, history, **more):
    """Returns what a run has come to, a dict of arrays."""
    found = {f"history_{k}": np.array(v) for k, v in history.items()}
    variables = model.variables + model.optimizer.variables
    for i, variable in enumerate(variables):
        found[f"variable_{i}_{variable.path}"] = np.asarray(variable.numpy())
    return {**found, **more}


def largest_difference(a, b):
    """Returns the largest difference relative to the largest entry."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    return float(np.max(np.abs(a - b)) / max(1e-3, np.max(np.abs(b))))
