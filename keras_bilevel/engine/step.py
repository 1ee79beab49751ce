"""The results of a pass over the units of a batch, and their weights."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_bilevel import keras_private
from keras_bilevel.data.batches import Batch
from keras_bilevel.engine.backend import gradients
from keras_bilevel.engine.backend import replicas

NOT_A_MULTIPLE = (
    "Expected the number of examples in a batch to be a multiple of "
    "num_shards={num_shards}. Received: a batch of {size}. Let `fit` "
    "build the super-batches from arrays, or build them with "
    "`kb.data.stratified_batches`, which drops the remainder."
)


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

    def all_gradients(self):
        """Returns `gradients` with `pulls` added."""
        if self.pulls is None:
            return self.gradients
        return [_add(*pair) for pair in zip(self.gradients, self.pulls)]

    def usable_examples(self):
        """Returns which examples were not dropped, `(batch_size,)`."""
        # A part is an example or a shard.
        size = ops.shape(self.batch.ids)[0]
        return ops.repeat(~self.dropped, size // ops.shape(self.dropped)[0])


def add_regularizers(step):
    """Adds the weight regularisers to a step.

    They count at full strength, whatever the weights of examples are. With R
    replicas each replica adds 1/R of their gradients, since the optimizer sums
    over replicas.

    Args:
        step: A `Step`.

    Returns:
        The step with `penalty` and `pulls`, if there are any regularisers.
    """
    regularized = [v for v in step.variables if v.regularizer is not None]
    if not regularized:
        return step

    def compute(pause):
        penalties = [ops.cast(v.regularizer(v), "float32") for v in regularized]
        return sum(penalties) / replicas.num_replicas(), sum(penalties)

    _, penalty, pulls = gradients.differentiate(compute, step.variables)
    return dataclasses.replace(step, penalty=penalty, pulls=pulls)


def _add(gradient, pull):
    pull = gradients.dense(pull)
    if pull is None:
        return gradient
    return pull if gradient is None else gradient + pull


def weights_of(weighting, statistics):
    """Asks a weighting for weights, by the statistics that it names.

    Args:
        weighting: A `Weighting`.
        statistics: Dict of all that are known, each `(groups, units)`.
    """
    return weighting.call(
        **{name: statistics[name] for name in weighting.statistics}
    )


def normalizer(weighting, weights):
    """Returns the factor `1 / |w|_1` of each group.

    It is 0 where all weights are 0 (or `|w|_1` underflows), so that the step
    applies a zero gradient and never a NaN.

    Args:
        weighting: A `Weighting`.
        weights: Tensor of shape `(groups, units)`, before normalisation.

    Returns:
        Tensor of shape `(groups,)`.
    """
    if not weighting.l1_normalize:
        return ops.ones_like(weights[:, 0])
    total = replicas.reduce_sum(ops.sum(ops.abs(weights), axis=1))
    underflows = total < np.finfo(np.float32).tiny
    # Eq. 10: w_i / |w|_1.
    return ops.where(underflows, 0.0, 1.0 / ops.where(underflows, 1.0, total))


def finite_or_zero(values):
    """Replaces values that are not finite by 0."""
    return ops.where(ops.isfinite(values), values, 0.0)


def effective_units(weights):
    """Returns `|w|_1^2 / |w|_2^2` of each group, 0 where all weights are 0.

    Args:
        weights: Tensor of shape `(groups, units)`.

    Returns:
        Tensor of shape `(groups,)`; `1 / sum_i w_i^2` for normalised weights.
    """
    total, squares = replicas.reduce_sum(
        [
            ops.sum(ops.abs(weights), axis=1),
            ops.sum(ops.square(weights), axis=1),
        ]
    )
    return ops.divide_no_nan(ops.square(total), squares)


def group_finder(model, per_layer):
    """Returns a function that maps a variable to the key of its group.

    Args:
        model: A `BilevelModel`.
        per_layer: Boolean, one group per layer that owns variables, or one
            group in all.
    """
    if not per_layer:
        return lambda variable: None
    owners = {
        id(variable): position
        for position, layer in enumerate(keras_private.all_layers(model))
        for variable in keras_private.own_trainable_variables(layer)
    }
    return lambda variable: owners[id(variable)]
