"""Replicas: how many there are, and reductions over them."""

import tensorflow as tf

from keras_bilevel import keras_private

_GATHERED = (tf.int32, tf.int64)


def num_replicas():
    """Returns the number of replicas."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def meet_in(network):
    """Returns whether layers of a network wait for other replicas."""
    return num_replicas() > 1 and any(
        getattr(layer, "synchronized", False)
        for layer in keras_private.all_layers(network)
    )


def reduce_sum(values):
    """Sums a structure of tensors over all replicas.

    Args:
        values: A tensor or a structure of tensors of this replica.

    Returns:
        The same structure, with the same sums on every replica.
    """
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def reduce_mean(values):
    """Averages a list of tensors over all replicas, `None` stays `None`."""
    count = num_replicas()
    if count == 1:
        return values
    sums = iter(reduce_sum([v for v in values if v is not None]))
    return [None if v is None else next(sums) / count for v in values]


def on_all(condition):
    """Returns whether a boolean scalar is true on every replica."""
    if num_replicas() == 1:
        return condition
    return reduce_sum(tf.cast(~condition, tf.float32)) == 0.0


def gather(values):
    """Concatenates tensors of shape `(batch, ...)` over all replicas.

    Returns:
        Tensor of shape `(num_replicas * batch, ...)`, replica 0 first; `None`
        for `None`.
    """
    if values is None or num_replicas() == 1:
        return values
    kind = values.dtype
    if kind.is_bool or (kind.is_integer and kind not in _GATHERED):
        # Collective operations support few types.
        return tf.cast(gather(tf.cast(values, tf.int64)), kind)
    context = tf.distribute.get_replica_context()
    # A tensor straight from the input has no device, and gathering it fails.
    gathered = context.all_gather(tf.identity(values), axis=0)
    size = values.shape[0]
    rows = None if size is None else num_replicas() * size
    return tf.ensure_shape(gathered, (rows, *values.shape[1:]))


def own_part(values, size):
    """Returns this replica's rows of what `gather` returned.

    Args:
        values: Tensor of shape `(num_replicas * size, ...)`.
        size: Integer, how many rows each replica has.
    """
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    first = context.replica_id_in_sync_group * size
    return values[first : first + size]


def replicas_of(model):
    """Returns the number of replicas that a model trains on."""
    return model.distribute_strategy.num_replicas_in_sync


def scope_of(model):
    """Returns the context in which variables for a model are created."""
    return model.distribute_strategy.scope()


def has_workers(model):
    """Returns whether a model trains in several processes."""
    strategy = model.distribute_strategy
    kind = tf.distribute.MultiWorkerMirroredStrategy
    if not isinstance(strategy, kind):
        return False
    workers = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(map(len, workers.values())) > 1


def of_workers(value, model):
    """Gathers an integer from all workers; each of them has to call this.

    Args:
        value: Integer of this worker.
        model: The `keras.Model` that they train.

    Returns:
        List of integers, the chief's first.
    """
    if not has_workers(model):
        return [value]
    strategy = model.distribute_strategy
    values = strategy.gather(tf.constant([value], tf.int64), axis=0)
    return [int(v) for v in values.numpy()]


def part_of_worker(dataset):
    """Returns a dataset that gives each worker its part of every batch."""
    # By default, tf.data may give each worker different files.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


def check_validation(data):
    """Does nothing: Keras divides any validation data among workers."""


def check_strategy(model):
    """Raises `ValueError` for a strategy without synchronous replicas."""
    strategy = model.distribute_strategy
    refused = (
        tf.distribute.ParameterServerStrategy,
        tf.compat.v1.distribute.experimental.ParameterServerStrategy,
        tf.distribute.experimental.CentralStorageStrategy,
    )
    if isinstance(strategy, refused):
        raise ValueError(
            "Expected a strategy whose replicas train in step: "
            "`MirroredStrategy`, `MultiWorkerMirroredStrategy`, `TPUStrategy` "
            "or `OneDeviceStrategy`. Received: "
            f"{type(strategy).__name__}. The method compares gradients of one "
            "point, which workers that update on their own do not have."
        )


def check_replicated(model):
    """Raises `ValueError` for options with which Keras fails on replicas.

    Args:
        model: A compiled `keras.Model`.
    """
    strategy = model.distribute_strategy
    is_mirrored = isinstance(
        strategy,
        (
            tf.distribute.MirroredStrategy,
            tf.distribute.MultiWorkerMirroredStrategy,
        ),
    )
    are_several = replicas_of(model) > 1
    if is_mirrored or are_several:
        _check_optimizer(model.optimizer)
    # TensorFlow finds no inputs of the steps after the first.
    if is_mirrored and are_several and model.steps_per_execution > 1:
        raise ValueError(
            "Expected steps_per_execution=1 under several replicas of a "
            f"`{type(strategy).__name__}`, with which Keras cannot run several "
            "steps at once. Received: steps_per_execution="
            f"{model.steps_per_execution}. Leave it out of `compile`, or train "
            "on one device."
        )


def _check_optimizer(optimizer):
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    mends = {"gradient_accumulation_steps": "Take larger batches"}
    if optimizer.use_ema:
        mends["ema_overwrite_frequency"] = (
            "Overwrite weights by the callback `SwapEMAWeights`"
        )
    for name, mend in mends.items():
        value = getattr(optimizer, name)
        if value:
            raise ValueError(
                f"Expected an optimizer without `{name}` under a strategy: "
                "Keras applies it inside of a condition, where replicas cannot "
                f"wait for one another. Received: {name}={value}. {mend}, or "
                "train without a strategy."
            )


def make_once(make, model=None):
    """Creates variables once for all replicas.

    Args:
        make: Function without arguments that creates them. It is called outside
            of graphs.
        model: The `keras.Model` whose strategy to use outside of a replica, or
            `None` for the current strategy.
    """

    def make_outside():
        with tf.init_scope():
            make()

    context = tf.distribute.get_replica_context()
    if tf.distribute.has_strategy() and context is not None:
        # All replicas wait here until the variables exist.
        context.merge_call(lambda _: make_outside())
    else:
        current = tf.distribute.get_strategy()
        strategy = current if model is None else model.distribute_strategy
        with strategy.scope():
            make_outside()
