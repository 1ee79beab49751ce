"""How Keras trains with TensorFlow, and fixes for several workers."""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine.tensorflow import replicas


class StepOfBackend(keras_private.TensorFlowHooks):
    """Gives `keras.Model` the `train_step` of TensorFlow; a mixin.

    It also fixes `keras.Model` under `tf.distribute`.
    """

    def train_step(self, batch):
        return self.take_step(batch)

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
            keras_private.build_symbolically(
                self, self.scheme.loss_inputs(data_batch)
            )

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
            keras_private.build_symbolically(
                self, self.scheme.loss_inputs(batch)
            )

    def wrap_step(self, step_function):
        # On several workers Keras averages logs along axis 0, which scalars do
        # not have: https://github.com/keras-team/keras/issues/20585.
        is_spread = replicas.has_workers(self)

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


def predicted(model, x):
    """Returns what `predict_step` of a Keras model gives for a batch."""
    return model.predict_step((x,))


def _is_known(leaf):
    """Whether Keras can make a symbolic tensor like this one."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biuf"
    is_dense = isinstance(leaf, (tf.Tensor, tf.TensorSpec))
    return is_dense and leaf.shape.rank is not None
