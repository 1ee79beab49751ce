"""What goes into a walk over the units of a batch, and what comes out."""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_bilevel.data.batches import Batch


@dataclasses.dataclass
class Upper:
    """What a target batch has shown.

    Attributes:
        batch: The target `Batch`.
        y_pred: The predictions for it.
        loss: Scalar tensor, its mean loss, 0 where the step was dropped.
        has_loss: Boolean scalar, whether it was not.
    """

    batch: Batch
    y_pred: Any
    loss: Any
    has_loss: Any


@dataclasses.dataclass
class Step:
    """The outcome of one walk, before the optimizer is asked.

    Attributes:
        variables: List of the trainable variables.
        gradients: List with the weighted gradient of each variable, float32
            and without a loss scale; `None` where the loss does not reach it.
        weights: Tensor of shape `(groups, units)`, the final weights.
        losses: Tensor of shape `(parts,)`, the mean loss of each shard or the
            loss of each source example, 0 where there is none.
        has_loss: Boolean tensor of shape `(parts,)`: where there is a loss to
            show. It may be finite though the gradient is not.
        dropped: Boolean tensor of shape `(parts,)`: the parts whose loss or
            gradient is not finite. Validation shards come first.
        batch: The `Batch` that the predictions belong to.
        y_pred: The predictions that the walk made.
        upper: An `Upper`, or `None` where shards validate.
        shown: Tuple `(y, y_pred, sample_weight)` whose loss is the one that
            is shown, or `None` where shards are walked.
        penalty: Scalar, the weight regularisers, where `losses` lack them.
        pulls: List of their gradients, which `gradients` lack as well, or
            `None`.
        is_misfit: Boolean scalar, whether the alignments of examples do not
            add up, or `None` where that is not known.
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
        # One part for each example, or for each shard.
        size = tf.shape(self.batch.ids)[0]
        return tf.repeat(~self.dropped, size // tf.shape(self.dropped)[0])
