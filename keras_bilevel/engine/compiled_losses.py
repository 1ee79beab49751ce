"""Compiled losses of any rank that accept one weight per example.

A loss has one number for each example, `(n,)`, or one for each token or pixel
of it, `(n, t)` or `(n, h, w)`. Keras multiplies losses and weights without
aligning their axes. Weights of shape `(n,)` then fail on a loss of higher rank,
or weigh the wrong axis if `t` equals `n`. Here all weights are first expanded
to the rank of the loss: `sample_weight`, `class_weight` and the weights of the
methods.
"""

import dataclasses
import functools
from typing import Any

import keras
from keras import ops

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.engine.backend import shapes
from keras_bilevel.engine.symbolic import spec_of_result


def compile_losses(model, loss, loss_weights):
    """Makes the losses of a compiled model accept one weight per example.

    Args:
        model: `keras.Model`, just compiled.
        loss: As for `compile`.
        loss_weights: As for `compile`.
    """
    losses = None
    if loss is not None:
        losses = keras_private.CompiledLosses(
            loss,
            loss_weights,
            getattr(model, "output_names", None),
            make_loss=PerExampleLoss,
            make_tracker=lambda name: MeanOfSome(name=name),
        )
    keras_private.set_compiled(model, losses, MeanOfSome(name="loss"))


class MeanOfSome(keras.metrics.Mean):
    """A mean that is NaN, not 0, if nothing was counted."""

    def result(self):
        mean = super().result()
        return ops.where(self.count > 0, mean, float("nan"))


class PerExampleLoss(keras.losses.Loss):
    """A loss whose sample weights are expanded to its rank.

    Args:
        loss: The `keras.losses.Loss`.
    """

    def __init__(self, loss):
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss
        self._ranks = {}

    def __call__(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            rank = self._rank(y_true, y_pred)
            sample_weight = _of_rank(sample_weight, rank)
            _check_rank(self.loss, sample_weight, rank)
        return self.loss(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        return self.loss.call(y_true, y_pred)

    def _rank(self, y_true, y_pred):
        key = tuple(_kind(t) for t in keras.tree.flatten((y_true, y_pred)))
        if key not in self._ranks:
            shape = numbers_shape(self.loss, y_true, y_pred)
            self._ranks[key] = len(shape)
        return self._ranks[key]


@dataclasses.dataclass
class OutputLoss:
    """The loss of one output of a model.

    Attributes:
        name: String, the name of the output, or of the loss.
        path: Tuple of keys and indices, the place of the output in `y_pred`.
        loss: The `keras.losses.Loss`.
        weight: Float, the output's part of `loss_weights`.
        y: Labels, of shape `(batch_size, ...)`.
        y_pred: Predictions, of shape `(batch_size, ...)`.
        sample_weight: The user's weights for this output, or `None`.
        is_masked: Boolean, whether a mask leaves out a part of the loss. Set
            once `terms` was read.
    """

    name: str
    path: tuple
    loss: keras.losses.Loss
    weight: float
    y: Any
    y_pred: Any
    sample_weight: Any
    is_masked: bool = False

    @functools.cached_property
    def terms(self):
        """The loss before its reduction, and how much each number counts.

        Tuple of three float32 tensors of shape `(batch_size, ...)`. The first
        is the loss, 0 where it does not count. The second is how much each
        number counts: its sample weight, or 0 where a mask or `ignore_class`
        leaves it out. The third is the mask alone, 0 or 1.
        """
        numbers = _numbers(self.loss, self.y, self.y_pred)
        found = [keras_private.mask_of(t) for t in (self.y_pred, numbers)]
        masks = [mask for mask in found if mask is not None]
        self.is_masked = len(masks) > 0
        numbers = ops.cast(numbers, "float32")
        present = ops.ones_like(numbers)
        for mask in masks:
            present = present * _like(ops.cast(mask, "float32"), numbers)
        counts = present
        if self.sample_weight is not None:
            weights = ops.cast(self.sample_weight, "float32")
            counts = counts * _like(weights, numbers)
        return ops.where(counts != 0, numbers, 0.0), counts, present

    def means(self):
        """Returns each example's mean loss, over the numbers that count.

        Returns:
            Tuple of a float32 tensor and a boolean tensor of shape
            `(batch_size,)`: the means, and whether any number of the example
            counts.
        """
        numbers, counts, _ = self.terms
        total = per_example_sum(counts)
        sums = per_example_sum(counts * numbers)
        return ops.divide_no_nan(sums, total), total != 0


def outputs_of(model, y, y_pred, sample_weight=None):
    """Returns an `OutputLoss` for each loss that a model was compiled with.

    Args:
        model: A compiled `keras.Model`.
        y: Labels, a tensor or a structure of tensors.
        y_pred: Predictions, a tensor or a structure of tensors.
        sample_weight: The user's weights, or `None`.

    Returns:
        List, empty where there are no compiled losses.
    """
    compiled = keras_private.compiled_losses(model)
    if compiled is None:
        return []
    if not compiled.built:
        symbolic = keras.tree.map_structure(_symbolic, (y, y_pred))
        spec_of_result(compiled, *symbolic)
    found = []

    def noting(entry):
        def note(y, y_pred, sample_weight):
            loss = getattr(entry.loss, "loss", entry.loss)
            weight = 1.0 if entry.loss_weights is None else entry.loss_weights
            parts = y, y_pred, sample_weight
            found.append(
                OutputLoss(entry.name, entry.path, loss, weight, *parts)
            )
            return ops.zeros(())

        return note

    notes = [noting(entry) for entry in keras_private.loss_entries(compiled)]
    keras_private.call_each_loss(compiled, notes, y, y_pred, sample_weight)
    return found


def losses_of(model):
    """Returns the loss of each output, once the losses were called.

    Args:
        model: A compiled `keras.Model`.

    Returns:
        Dict from the path of an output in the predictions to its
        `keras.losses.Loss`, empty before that.
    """
    compiled = keras_private.compiled_losses(model)
    if compiled is None or not compiled.built:
        return {}
    entries = keras_private.loss_entries(compiled)
    return {entry.path: entry.loss.loss for entry in entries}


def means_of(outputs):
    """Returns the compiled loss of each example, for ranking.

    For one output, it is the mean over the numbers that count. Masked tokens,
    ignored classes and tokens of weight 0 do not count. One weight for the
    whole example cancels out. For several outputs, it is the mean over the
    outputs that count, weighted by `loss_weights`, times the sum of all
    `loss_weights`.

    Args:
        outputs: List of `OutputLoss`, as `outputs_of` returns.

    Returns:
        Tuple of a float32 tensor and a boolean tensor of shape
        `(batch_size,)`: the losses, and whether any number of the example
        counts.
    """
    means, presences = zip(*(output.means() for output in outputs))
    if len(outputs) == 1:
        return outputs[0].weight * means[0], presences[0]
    weights = ops.convert_to_tensor(
        [float(output.weight) for output in outputs], "float32"
    )[:, None]
    present = ops.stack(presences) & (weights != 0)
    counted = ops.where(present, weights, 0.0)
    sums = ops.sum(ops.where(present, ops.stack(means) * weights, 0.0), axis=0)
    share = ops.divide_no_nan(ops.sum(counted, axis=0), ops.sum(weights))
    return ops.divide_no_nan(sums, share), ops.any(present, axis=0)


# Functions of `keras.losses` in which no example meets another.
_ROW_BY_ROW = {
    getattr(keras.losses, name)
    for name in (
        "binary_crossentropy",
        "binary_focal_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "categorical_generalized_cross_entropy",
        "categorical_hinge",
        "cosine_similarity",
        "hinge",
        "huber",
        "kl_divergence",
        "log_cosh",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "mean_squared_logarithmic_error",
        "poisson",
        "sparse_categorical_crossentropy",
        "squared_hinge",
    )
}


def of_parts(model, y, y_pred, sample_weight, count):
    """Computes the losses of equal parts of a batch from one call.

    Args:
        model: A compiled `keras.Model`.
        y: Labels, a tensor or a structure of tensors.
        y_pred: Predictions, a tensor or a structure of tensors.
        sample_weight: Weights, or `None`.
        count: Integer, the number of parts.

    Returns:
        Float32 tensor of shape `(count,)`, or `None` where the loss of a part
        has to be asked for: of several outputs, which have trackers, with a
        mask, another reduction, no number for each example, or a loss that
        may mix examples, or was never called.
    """
    found = list(losses_of(model).values())
    if len(found) != 1 or not _is_mean_of_rows(found[0]):
        return None
    (output,) = outputs_of(model, y, y_pred, sample_weight)
    numbers = _numbers(output.loss, output.y, output.y_pred)
    masked = (output.y_pred, numbers)
    if any(keras_private.mask_of(t) is not None for t in masked):
        return None
    if len(numbers.shape) == 0:
        return None
    if output.sample_weight is not None:
        weights = _like(output.sample_weight, numbers)
        numbers = numbers * ops.cast(weights, numbers.dtype)
    parts = ops.reshape(ops.cast(numbers, "float32"), (count, -1))
    return output.weight * ops.mean(parts, axis=1)


def _is_mean_of_rows(loss):
    # A class of the user's may compute anything.
    return (
        type(loss).__module__.startswith("keras.")
        and getattr(loss, "fn", None) in _ROW_BY_ROW
        and keras_private.loss_options(loss).get("axis", -1) == -1
        and loss.reduction == "sum_over_batch_size"
    )


def check_per_example(model, y, y_pred):
    """Raises `ValueError` for a loss that cannot be weighed example by example.

    Args:
        model: A compiled `keras.Model`.
        y: Labels, tensors or symbolic tensors of shape `(batch_size, ...)`.
        y_pred: Predictions, tensors or symbolic ones.
    """
    for output in outputs_of(model, y, y_pred):
        check_linear(output.loss)
        check_per_number(output)


def check_per_number(output):
    """Raises `ValueError` unless an `OutputLoss` has a loss per example."""
    loss = output.loss
    shape, size = _shape_and_size(output)
    if len(shape) == 0 or shape[0] != size:
        raise ValueError(
            "Expected a loss with a number, or several, for each example: "
            f"shape (batch_size, ...). Received: loss `{loss.name}` of "
            f"output `{output.name}` with shape {tuple(shape)} for "
            f"predictions of shape {tuple(output.y_pred.shape)}. Return "
            "the losses before any mean over the batch: a "
            "`keras.losses.Loss` takes the mean by itself, Dice and "
            "Tversky are one number per example with `axis=(1, 2, 3)` "
            "for images, and outputs of shape (batch_size,) need a last "
            "axis of 1."
        )


def _shape_and_size(output):
    """Returns the shape of an output's loss, and its size for each example."""
    if shapes.are_eager():
        # A user's loss may work eagerly only, so it is not traced.
        size = keras.tree.flatten(output.y_pred)[0].shape[0]
        return numbers_shape(output.loss, output.y, output.y_pred), size
    # With the batch size set to unknown, an axis that depends on it is unknown,
    # too.
    parts = keras.tree.map_structure(_of_any_size, (output.y, output.y_pred))
    return numbers_shape(output.loss, *parts), None


def check_linear(loss):
    """Raises `ValueError` for a loss that is not linear in sample weights.

    Args:
        loss: What is given to `compile`: a loss or a structure of them.
    """
    for part in keras.tree.flatten(loss):
        if getattr(part, "reduction", None) == "mean_with_sample_weight":
            raise ValueError(
                "Expected a loss that is linear in the sample weights, so that "
                "every example has a part of it. Received: "
                f"{type(part).__name__} with "
                "reduction='mean_with_sample_weight', which divides by the "
                "sum of the weights. Use reduction='sum_over_batch_size'."
            )


def numbers_shape(loss, y, y_pred):
    """Returns the shape of a loss before its reduction.

    Args:
        loss: A `keras.losses.Loss`.
        y: Labels, a tensor or a structure of tensors, symbolic ones too.
        y_pred: Predictions, likewise.

    Returns:
        Tuple of integers, `None` where one is unknown.
    """

    def numbers(y, y_pred):
        return ops.convert_to_tensor(_numbers(loss, y, y_pred))

    return shapes.of_result(numbers, y, y_pred)


def _numbers(loss, y, y_pred):
    """Returns a loss before its reduction, with its mask if it has one."""
    y, y_pred = keras.tree.map_structure(
        lambda t: ops.convert_to_tensor(t, dtype=loss.dtype), (y, y_pred)
    )
    return loss.call(y, y_pred)


def expanded(weights, rank):
    """Appends axes of length 1 to weights until they have rank `rank`.

    Args:
        weights: Tensor of shape `(batch_size, ...)`.
        rank: Integer. Weights of this rank or a higher one stay as they are.
    """
    weights = ops.convert_to_tensor(weights)
    weights = shapes.with_rank(weights, rank)
    for _ in range(rank - len(weights.shape)):
        weights = ops.expand_dims(weights, -1)
    return weights


def aligned_with_masks(sample_weight, y_pred):
    """Returns weights with as many axes as the masks of the predictions.

    Keras' metrics multiply both without aligning their axes.

    Args:
        sample_weight: A tensor, a structure of tensors and `None`, or `None`.
        y_pred: A tensor or a structure of tensors.
    """
    masks = map(keras_private.mask_of, keras.tree.flatten(y_pred))
    rank = max((len(m.shape) for m in masks if m is not None), default=0)
    return map_tensors(lambda w: expanded(w, rank), sample_weight)


def per_example_sum(numbers):
    """Sums a tensor over all axes but the first."""
    return ops.sum(numbers, axis=list(range(1, len(numbers.shape))))


def _like(weights, numbers):
    """Returns weights or a mask with the rank of a loss."""
    return _of_rank(weights, len(numbers.shape))


def _of_rank(weights, rank):
    """Returns weights without, or with more, last axes of length 1."""
    weights = shapes.with_rank(ops.convert_to_tensor(weights), rank)
    while len(weights.shape) > rank and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    return expanded(weights, rank)


def _check_rank(loss, weights, rank):
    """Raises `ValueError` for weights that a loss has no numbers for."""
    if len(weights.shape) > rank > 0:
        raise ValueError(
            "Expected a sample weight, or with `class_weight` a class, for "
            f"each number of the loss, which `{loss.name}` has {rank} axes of, "
            "or for each example. Received: weights of shape "
            f"{tuple(weights.shape)}. With several tags an example, weigh "
            "examples: `sample_weight` of shape (num_examples,)."
        )


def _symbolic(tensor):
    return keras.KerasTensor(*_kind(tensor))


def _of_any_size(tensor):
    shape, dtype = _kind(tensor)
    return keras.KerasTensor((None, *shape[1:]), dtype)


def packed(y_pred, by_path):
    """Packs values into the structure of the predictions.

    Args:
        y_pred: A tensor or a structure of tensors.
        by_path: Dict of output path to value. Other outputs get `None`.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(y_pred)]
    return keras.tree.pack_sequence_as(y_pred, [by_path.get(p) for p in paths])


def _kind(tensor):
    shape = tuple(tensor.shape)
    return shape, keras.backend.standardize_dtype(tensor.dtype)
