"""Lets `fit` of Keras run on batches with ids, and on several workers.

Keras builds a model from its first batch before it trains under a strategy,
and there it fails on both. Without one it builds metrics while it traces the
step, so that TensorFlow traces it a second time. Each method names what it
mends; all was seen with Keras 3.12 to 3.15. A test in
`tests/distribute/multi_worker_test.py` fails as soon as Keras trains on
several workers without this.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine import replicas


class MultiWorker(keras_private.TrainerHooks):
    """Mends `keras.Model` under `tf.distribute`; a mixin."""

    def _parts_seen(self, batch):
        """Returns `(x, y, sample_weight)` of what loss and metrics see.

        Args:
            batch: A batch of `fit`, `evaluate` or `train_on_batch`.
        """
        # Ids may come fourth.
        parts = batch[:3] if isinstance(batch, tuple) else batch
        return keras.utils.unpack_x_y_sample_weight(parts)

    def build_on_first_batch(self, iterator, data_batch):
        # Keras averages the first batch over the replicas to get one: on
        # several workers a structure fails, and ids are no `x`, `y` or weight.
        if not keras_private.has_strategy(self):
            self._build_before_trace(data_batch)
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
            keras_private.build_symbolically(self, self._parts_seen(data_batch))

    def _build_before_trace(self, batch):
        """Builds metrics and losses, where that needs no strategy.

        Args:
            batch: A batch, or a structure of the shapes and types of one.
                Nothing is done where these are not known.
        """
        leaves = keras.tree.flatten(batch)
        if keras_private.has_strategy(self) or self.run_eagerly:
            return
        if batch is not None and all(_is_known(leaf) for leaf in leaves):
            keras_private.build_symbolically(self, self._parts_seen(batch))

    def wrap_step(self, step_function):
        # On several workers Keras averages logs along their axis 0, which
        # scalars have not: https://github.com/keras-team/keras/issues/20585.
        has_workers = replicas.has_workers(self.distribute_strategy)

        def step(data):
            # Where a dataset ends unforeseen, all that needs no data would be
            # done once more: counts of examples, of iterations.
            tensors = filter(tf.is_tensor, keras.tree.flatten(data))
            with tf.control_dependencies(list(tensors)):
                logs = step_function(data)
            if not has_workers:
                return logs
            return keras.tree.map_structure(
                lambda log: tf.convert_to_tensor(log)[None], logs
            )

        return step


def _is_known(leaf):
    """Whether Keras can make a symbolic tensor like this one."""
    if leaf is None:
        return True
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biuf"
    is_dense = isinstance(leaf, (tf.Tensor, tf.TensorSpec))
    return is_dense and leaf.shape.rank is not None
