"""Reductions over replicas, and fixes for Keras on several workers."""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.data.batches import tensors

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


def has_workers(strategy):
    """Returns whether a strategy spreads over several processes.

    Args:
        strategy: A `tf.distribute.Strategy`.
    """
    kind = tf.distribute.MultiWorkerMirroredStrategy
    if not isinstance(strategy, kind):
        return False
    workers = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(map(len, workers.values())) > 1


def of_workers(value, strategy):
    """Gathers an integer from all workers; each of them has to call this.

    Args:
        value: Integer of this worker.
        strategy: A `tf.distribute.Strategy`.

    Returns:
        List of integers, the chief's first.
    """
    if not has_workers(strategy):
        return [value]
    values = strategy.gather(tf.constant([value], tf.int64), axis=0)
    return [int(v) for v in values.numpy()]


def check_strategy(strategy):
    """Raises `ValueError` for a strategy without synchronous replicas."""
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


def make_once(make, strategy=None):
    """Creates variables once for all replicas.

    Args:
        make: Function without arguments that creates them. It is called outside
            of graphs.
        strategy: The `tf.distribute.Strategy` to use outside of a replica, or
            `None` for the current one.
    """

    def make_outside():
        with tf.init_scope():
            make()

    context = tf.distribute.get_replica_context()
    if tf.distribute.has_strategy() and context is not None:
        # All replicas wait here until the variables exist.
        context.merge_call(lambda _: make_outside())
    else:
        with (strategy or tf.distribute.get_strategy()).scope():
            make_outside()


class MultiWorker(keras_private.TrainerHooks):
    """Fixes `keras.Model` under `tf.distribute`; a mixin."""

    def build_on_first_batch(self, iterator, data_batch):
        # Keras averages the first batch over replicas to get a single one. On
        # several workers that fails for a structure. Also, ids are neither `x`
        # nor `y` nor weights.
        if not keras_private.has_strategy(self):
            self.build_before_trace(data_batch)
            return
        strategy = self.distribute_strategy
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda v: strategy.experimental_local_results(v)[0],
                    next(batches),
                )
                break
        with strategy.scope():
            keras_private.build_symbolically(self, self.scheme.seen(data_batch))

    def build_before_trace(self, batch):
        """Builds metrics and losses, unless there is a strategy.

        Args:
            batch: A batch, or its `element_spec`. Nothing is built if shapes or
                types are unknown.
        """
        leaves = tensors(batch)
        if keras_private.has_strategy(self) or self.run_eagerly:
            return
        if batch is not None and all(_is_known(leaf) for leaf in leaves):
            keras_private.build_symbolically(self, self.scheme.seen(batch))

    def wrap_step(self, step_function):
        # On several workers Keras averages logs along axis 0, which scalars do
        # not have: https://github.com/keras-team/keras/issues/20585.
        is_spread = has_workers(self.distribute_strategy)

        def step(data):
            # If a dataset ends unexpectedly, operations that need no data would
            # run once more, such as counting iterations.
            leaves = filter(tf.is_tensor, keras.tree.flatten(data))
            with tf.control_dependencies(list(leaves)):
                logs = step_function(data)
            if not is_spread:
                return logs
            return keras.tree.map_structure(
                lambda log: tf.convert_to_tensor(log)[None], logs
            )

        return step


def _is_known(leaf):
    """Whether Keras can make a symbolic tensor like this one."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biuf"
    is_dense = isinstance(leaf, (tf.Tensor, tf.TensorSpec))
    return is_dense and leaf.shape.rank is not None
