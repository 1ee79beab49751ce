"""How far predictions agree with the labels that were given."""

import keras
import numpy as np
from keras import losses
from keras import ops

from keras_bilevel import checks
from keras_bilevel import keras_private
from keras_bilevel.data.labels import is_one_hot
from keras_bilevel.engine.compiled_losses import expanded
from keras_bilevel.engine.compiled_losses import numbers_shape
from keras_bilevel.engine.compiled_losses import per_example_sum

# The losses of which predictions are probabilities, by their functions: those
# are the same for `keras.losses.BinaryCrossentropy()`, subclasses and strings.
_BINARY = (losses.binary_crossentropy, losses.binary_focal_crossentropy)
_ONE_HOT = (
    losses.categorical_crossentropy,
    losses.categorical_focal_crossentropy,
)
_SPARSE = (
    losses.sparse_categorical_crossentropy,
    losses.categorical_generalized_cross_entropy,
)


def given_probability(output):
    """Returns the predicted probability of the given labels.

    Of one of several classes it is that class's probability; of several
    labels, each 0 or 1, the mean over the labels of the probability of the
    given value.

    Args:
        output: An `engine.compiled_losses.OutputLoss`.

    Returns:
        Float32 tensor in [0, 1] of the shape of the loss before its
        reduction; `None` where predictions are not known to be probabilities.
    """
    if _function(output.loss) in _BINARY:
        positive = _probabilities(output)
        y = _like(output.y, positive)
        given = y * positive + (1.0 - y) * (1.0 - positive)
        return ops.mean(_to_unit(given), axis=_axis(output.loss))
    if _function(output.loss) in (*_SPARSE, *_ONE_HOT):
        probabilities = _probabilities(output)
        y = ops.cast(_one_hot(output, probabilities), "float32")
        return _to_unit(ops.sum(probabilities * y, axis=_axis(output.loss)))
    return None


def margins(output):
    """Returns by how much the given label leads all others.

    It is the logit of the given class minus the largest other one: the margin
    of Pleiss et al. (2020), eq. 1. Of one label that is 0 or 1 it is the logit
    of the given value. Where there are several, both are means over labels.

    Args:
        output: An `OutputLoss`.

    Returns:
        Tuple of two float32 tensors of the shape of the loss before its
        reduction: the margins, and 1 where they are positive, 0 elsewhere.
        `None` where predictions are not known to be probabilities.
    """
    axis = _axis(output.loss)
    if _function(output.loss) in _BINARY:
        logits = _logits(output)
        signed = (2.0 * _like(output.y, logits) - 1.0) * logits
        right = ops.cast(signed > 0, "float32")
        return ops.mean(signed, axis=axis), ops.mean(right, axis=axis)
    if _function(output.loss) not in (*_SPARSE, *_ONE_HOT):
        return None
    logits = _logits(output)
    given = ops.argmax(_one_hot(output, logits), axis=axis)
    is_given = ops.one_hot(given, logits.shape[axis], axis=axis, dtype="bool")
    own = ops.max(ops.where(is_given, logits, -float("inf")), axis=axis)
    others = ops.max(ops.where(is_given, -float("inf"), logits), axis=axis)
    margin = own - others
    return margin, ops.cast(margin > 0, "float32")


def class_probabilities(output):
    """Returns the probability of each class, one label an example.

    Args:
        output: An `OutputLoss`.

    Returns:
        Float32 tensor of shape `(batch_size, num_classes)`, with two columns
        for one output that is 0 or 1; `None` where predictions are anything
        else.
    """
    function, shape = _function(output.loss), tuple(output.y_pred.shape)
    if len(shape) != 2 or function not in (*_BINARY, *_SPARSE, *_ONE_HOT):
        return None
    probabilities = _probabilities(output)
    if function in (*_SPARSE, *_ONE_HOT):
        return probabilities
    if shape[1] > 1:
        return None
    return ops.concatenate([1.0 - probabilities, probabilities], axis=1)


def are_classes(output):
    """Returns whether labels are classes, or each 0 or 1.

    Args:
        output: An `OutputLoss`, its labels an array. It may have predictions
            for another number of examples.
    """
    return _function(output.loss) in _BINARY or _classes(output) is not None


def check_range(output):
    """Raises `ValueError` for classes that predictions have no place for.

    Args:
        output: An `OutputLoss`, its labels an array. It may have predictions
            for another number of examples.
    """
    # What a mask leaves out may be anything.
    is_masked = keras_private.mask_of(output.y_pred) is not None
    if is_masked or _function(output.loss) not in _SPARSE:
        return
    classes = np.asarray(_classes(output))
    size = output.y_pred.shape[_axis(output.loss)]
    ignored = keras_private.loss_options(output.loss).get("ignore_class")
    odd = (classes < 0) | (classes >= size)
    odd &= classes != ignored
    if np.any(odd):
        raise checks.wrong(
            f"labels of output `{output.name}`",
            f"classes in [0, {size}), as there are {size} predictions",
            f"{classes[odd][0]}",
        )


def is_of_examples(output):
    """Returns whether there is one label for each example, 0, 1 or a class.

    Args:
        output: An `OutputLoss`. One with a label for each token or pixel has
            several, and a loss of no cross-entropy none that is known.
    """
    is_known = _function(output.loss) in (*_BINARY, *_ONE_HOT, *_SPARSE)
    if not is_known:
        return False
    return len(numbers_shape(output.loss, output.y, output.y_pred)) == 1


def correct(output):
    """Returns where the label that is predicted is the given one.

    Args:
        output: An `OutputLoss` whose `are_classes`.

    Returns:
        Float32 tensor of the shape of the loss before its reduction, the mean
        over labels where each is 0 or 1.
    """
    axis = _axis(output.loss)
    if _function(output.loss) in _BINARY:
        predicted = _probabilities(output) > 0.5
        same = predicted == (_like(output.y, predicted) > 0.5)
        return ops.mean(ops.cast(same, "float32"), axis=axis)
    predicted = ops.argmax(output.y_pred, axis=axis)
    classes = ops.cast(_classes(output), predicted.dtype)
    return ops.cast(predicted == classes, "float32")


def counts(output, values):
    """Returns how much each of the values of an output counts in its loss.

    Args:
        output: An `OutputLoss`.
        values: Tensor of the shape of the loss, or with more axes.
    """
    _, counted, _ = output.terms
    return expanded(counted, len(values.shape)) * ops.ones_like(values)


def example_means(output, values):
    """Returns the mean of each example over what counts in it.

    Args:
        output: An `OutputLoss`.
        values: Tensor of the shape of the loss, or with more axes.

    Returns:
        Tensor of shape `(batch_size,)`, NaN where nothing counts.
    """
    counted = counts(output, values)
    sums = per_example_sum(ops.where(counted != 0, counted * values, 0.0))
    total = per_example_sum(counted)
    means = sums / ops.where(total != 0, total, 1.0)
    return ops.where(total != 0, means, float("nan"))


def ranked(losses):
    """Returns the share of a batch with a higher loss; ties count half.

    Args:
        losses: Float tensor of shape `(batch_size,)`. What is not finite is
            not in the batch.

    Returns:
        Float tensor in (0, 1) of the same shape, NaN where losses are not
        finite.
    """
    there = ops.isfinite(losses)
    ascending = ops.sort(ops.where(there, losses, float("inf")))
    lower = ops.searchsorted(ascending, losses, side="left")
    not_higher = ops.searchsorted(ascending, losses, side="right")
    place = ops.cast(lower + not_higher, losses.dtype) / 2.0
    count = ops.sum(ops.cast(there, losses.dtype))
    return ops.where(there, 1.0 - place / count, float("nan"))


def check_probability(are_ranks, watcher):
    """Raises `ValueError` for scores that are no probabilities."""
    if are_ranks:
        raise ValueError(
            "Expected a cross-entropy of `keras.losses` for "
            f"`{type(watcher).__name__}.given_probability`. Received: a loss "
            "of which predictions are not known to be probabilities. Use "
            "`example_scores`, made of the ranks of the loss, or compile with "
            "a loss such as `keras.losses.SparseCategoricalCrossentropy("
            "from_logits=True)` in place of a function of your own."
        )


def threshold(loss, units):
    """Returns above which number a prediction is yes, and not no.

    Args:
        loss: The `keras.losses.Loss` of an output, or `None`.
        units: Integer, the numbers of a prediction.

    Returns:
        Float, `None` where each of the numbers stands for a class.
    """
    if _function(loss) in (losses.hinge, losses.squared_hinge):
        return 0.0
    if units > 1 and _function(loss) not in _BINARY:
        return None
    return 0.0 if predicts_logits(loss) else 0.5


def predicts_logits(loss):
    """Returns whether a compiled loss was made for logits."""
    return bool(getattr(loss, "from_logits", False))


def _function(loss):
    """Returns the function of a loss, which `keras.losses.Loss` may lack."""
    return getattr(loss, "fn", None)


def _axis(loss):
    # Not all losses have it as an attribute.
    return keras_private.loss_options(loss).get("axis", -1)


def _probabilities(output):
    y_pred = ops.cast(output.y_pred, "float32")
    axis = _axis(output.loss)
    if _function(output.loss) in _BINARY:
        if predicts_logits(output.loss):
            return ops.sigmoid(y_pred)
        return _to_unit(y_pred)
    if predicts_logits(output.loss):
        return ops.softmax(y_pred, axis=axis)
    # As the losses read them.
    y_pred = _to_unit(y_pred)
    total = ops.sum(y_pred, axis=axis, keepdims=True)
    return y_pred / ops.where(total > 0, total, 1.0)


def _logits(output):
    """Returns logits; of classes up to a constant, which no margin sees."""
    if predicts_logits(output.loss):
        return ops.cast(output.y_pred, "float32")
    smallest = keras.config.epsilon()
    probabilities = ops.clip(_probabilities(output), smallest, 1.0 - smallest)
    logits = ops.log(probabilities)
    if _function(output.loss) in _BINARY:
        logits = logits - ops.log(1.0 - probabilities)
    return logits


def _one_hot(output, y_pred):
    if _function(output.loss) in _ONE_HOT:
        return output.y
    axis = _axis(output.loss) % len(y_pred.shape)
    y = ops.cast(output.y, "int32")
    if len(y.shape) == len(y_pred.shape):
        y = ops.squeeze(y, axis)
    return ops.one_hot(y, y_pred.shape[axis], axis=axis)


def _classes(output):
    """Returns an array of integer classes, `None` where labels are others."""
    function, y = _function(output.loss), np.asarray(output.y)
    shape = tuple(output.y_pred.shape)
    axis = _axis(output.loss) % len(shape)
    if axis == 0 or shape[axis] == 1:
        return None
    before, after = shape[1:axis], shape[axis + 1 :]
    sparse = ((*before, *after), (*before, 1, *after))
    if function in _SPARSE or y.dtype.kind in "iub":
        if y.shape[1:] in sparse:
            return y.reshape((len(y), *sparse[0]))
    if function in _ONE_HOT or (y.ndim == 2 and is_one_hot(y)):
        if y.shape[1:] == shape[1:]:
            return y.argmax(axis)
    return None


def _like(y, y_pred):
    """Returns labels as floats, with the rank of the predictions."""
    y = ops.cast(y, "float32")
    missing = len(y.shape) < len(y_pred.shape)
    return ops.expand_dims(y, -1) if missing else y


def _to_unit(values):
    return ops.clip(values, 0.0, 1.0)
