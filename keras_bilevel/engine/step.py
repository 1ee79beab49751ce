"""The results of a pass over the units of a batch."""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_bilevel.data.batches import Batch


@dataclasses.dataclass
class Upper:
    """The results of a target batch.

    Attributes:
        batch: The target `Batch`.
        y_pred: The predictions for it.
        loss: Scalar tensor, its mean loss, 0 where the step was dropped.
        has_loss: Boolean scalar, whether the step was not dropped.
    """

    batch: Batch
    y_pred: Any
    loss: Any
    has_loss: Any


@dataclasses.dataclass
class Step:
    """The results of one step, before the optimizer applies it.

    Attributes:
        variables: List of the trainable variables.
        gradients: List with the weighted gradient of each variable, float32
            and without a loss scale; `None` where the loss does not reach it.
        weights: Tensor of shape `(groups, units)`, the final weights.
        losses: Tensor of shape `(parts,)`, the mean loss of each shard, the
            loss of each source example, or the loss of each network. 0 where
            there is none.
        has_loss: Boolean tensor of shape `(parts,)`: where there is a loss to
            show. It may be finite although the gradient is not.
        dropped: Boolean tensor of shape `(parts,)`: the parts whose loss or
            gradient is not finite. Validation shards come first.
        batch: The `Batch` that the predictions belong to.
        y_pred: These predictions.
        upper: An `Upper`, or `None` without a target batch.
        shown: Tuple `(y, y_pred, sample_weight)` of the loss that is shown, or
            `None` for shards.
        penalty: Scalar, the weight regularisers, or 0 if `losses` include them.
        pulls: List of the gradients of `penalty`, which `gradients` do not
            include, or `None`.
        is_misfit: Boolean scalar, whether the alignments of examples do not add
            up, or `None` if that is not known.
    """

    variables: list
    gradients: list
    weights: Any
    losses: Any
    has_loss: Any
    dropped: Any
    batch: Batch
    y_pred: Any
    upper: Any = None
    shown: Any = None
    penalty: Any = 0.0
    pulls: Any = None
    is_misfit: Any = None

    def usable_examples(self):
        """Returns which examples were not dropped, `(batch_size,)`."""
        # A part is an example or a shard.
        size = tf.shape(self.batch.ids)[0]
        return tf.repeat(~self.dropped, size // tf.shape(self.dropped)[0])
