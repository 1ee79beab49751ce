"""Training runs that must end alike, however many devices share them."""

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb

INPUTS, CLASSES = 5, 3
# Of each replica.
SHARDS, SHARD_SIZE = 3, 4
SOURCE_SIZE, TARGET_SIZE = 16, 8
# Examples for several processes, which are slow.
FEW = 120

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.02),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.02),
    "more": lambda: keras.optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, clipvalue=0.005
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
            # Large enough to do without the gradients of single shards.
            keras.layers.Dense(16, activation="tanh"),
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
    options = {"ids": True, "seed": 3, **options}
    dataset = kb.data.stratified_batches(
        data, SHARDS, SHARD_SIZE, num_replicas=replicas, **options
    )
    if strategy.num_replicas_in_sync == replicas:
        return dataset
    # One device's validation shards come first.
    order = np.arange(replicas * SHARDS * SHARD_SIZE)
    order = order.reshape(replicas, SHARDS, SHARD_SIZE)
    order = np.concatenate([order[:, :1].ravel(), order[:, 1:].ravel()])
    return dataset.map(
        lambda *parts: tuple(tf.gather(part, order) for part in parts)
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
    for i, variable in enumerate(model.variables):
        found[f"{i}_{variable.name}"] = variable.numpy()
    for i, variable in enumerate(model.optimizer.variables):
        found[f"optimizer_{i}"] = variable.numpy()
    return {**found, **more}


def largest_difference(a, b):
    """Returns the largest difference relative to the largest entry."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    return float(np.max(np.abs(a - b)) / max(1e-3, np.max(np.abs(b))))


def differences(outcomes, references):
    """Returns the largest difference of each array of two outcomes."""
    pairs = zip(outcomes.items(), references.values(), strict=True)
    return {name: largest_difference(a, b) for (name, a), b in pairs}


def _of_arrays(strategy):
    """`fit` on arrays, whose order no one has set, `evaluate`, `predict`."""
    model = compiled(strategy, lambda: deep_bilevel(strategy, 2), "adam")
    x, y = examples(FEW)
    history = kb.callbacks.ExampleHistory(len(x))
    weights = kb.callbacks.WeightHistory()
    options = {"epochs": 2, "verbose": 0, "callbacks": [history, weights]}
    if strategy.num_replicas_in_sync == 2:
        # Workers draw differently: the chief's seed is to count.
        np.random.seed(getattr(strategy.cluster_resolver, "task_id", 0))
        fitted = model.fit(x, y, batch_size=24, **options)
    else:
        seed = np.random.RandomState(0).randint(2**31 - 1)
        batches = super_batches(strategy, 2, (x, y), seed=seed)
        fitted = model.fit(batches, **options)
    return outcome(
        model,
        fitted.history,
        evaluated=model.evaluate(x, y, batch_size=24, verbose=0),
        predicted=model.predict(x, batch_size=24, verbose=0),
        given_probability=np.nan_to_num(history.given_probability),
        effective=np.sum(np.square(weights.weights), axis=1),
    )


def _of_datasets(weighting, batches, optimizer):
    def run(strategy):
        model = compiled(strategy, lambda: weighting(strategy), optimizer)
        fitted = model.fit(batches(strategy), verbose=0)
        return outcome(model, fitted.history)

    return run


def _of_selection(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        networks = [
            keras.Sequential(
                [keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)]
            )
            for _ in range(2)
        ]
        model = kb.SelectionModel(
            networks,
            kb.selection.CoTeaching(),
            kb.schedules.CoTeachingSchedule(0.4, t_k=1),
        )
        model.compile(
            "adam",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    data = examples(FEW)
    history = kb.callbacks.SelectionHistory(FEW)
    batches = kb.data.shuffled_batches(data, 24, seed=3)
    fitted = model.fit(batches, epochs=2, verbose=0, callbacks=[history])
    return outcome(model, fitted.history, kept=history.kept)


# What two workers, two replicas and one device are to agree on.
CASES = {
    "arrays": _of_arrays,
    "deep_bilevel": _of_datasets(
        lambda strategy: deep_bilevel(strategy, 2),
        lambda strategy: super_batches(strategy, 2, examples(FEW)),
        "sgd",
    ),
    "soseleto": _of_datasets(
        lambda strategy: kb.weighting.Soseleto(FEW, alpha_lr=5.0),
        lambda strategy: source_target(examples(FEW)),
        "adam",
    ),
    "learning_to_reweight": _of_datasets(
        lambda strategy: kb.weighting.LearningToReweight(),
        lambda strategy: source_target(examples(FEW)),
        "sgd",
    ),
    "selection": _of_selection,
}
