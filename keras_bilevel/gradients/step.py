"""What goes into a walk over the units of a batch, and what comes out."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class Batch:
    """Examples with their labels; tensors of shape `(batch_size, ...)`.

    Attributes:
        x: Inputs, a tensor or a structure of tensors.
        y: Targets, a tensor or a structure of tensors.
        sample_weight: The user's weights, or `None`.
        ids: Integer tensor of shape `(batch_size,)`, or `None`.
    """

    x: Any
    y: Any
    sample_weight: Any = None
    ids: Any = None


@dataclasses.dataclass
class Step:
    """The outcome of one walk, before the optimizer is asked.

    Attributes:
        variables: List of the trainable variables.
        gradients: List with the weighted gradient of each variable, float32
            and without a loss scale; `None` where the loss does not reach it.
        weights: Tensor of shape `(groups, units)`, the final weights.
        losses: Tensor of shape `(parts,)`, the mean loss of each part of the
            batch that has a loss of its own, 0 where it was dropped.
        dropped: Boolean tensor of shape `(parts,)`: the parts whose loss or
            gradient is not finite. Upper-level parts come first.
        batch: The `Batch` that the predictions belong to.
        y_pred: The predictions that the walk made.
        statistics: Dict of tensors of shape `(groups, units)`, for weightings
            with a memory.
    """

    variables: list
    gradients: list
    weights: Any
    losses: Any
    dropped: Any
    batch: Batch
    y_pred: Any
    statistics: dict = dataclasses.field(default_factory=dict)
