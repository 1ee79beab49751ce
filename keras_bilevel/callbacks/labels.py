"""What a prediction says about the label that was given."""

import math

import numpy as np
from keras import losses
from keras import ops

from keras_bilevel import keras_private
from keras_bilevel.data.labels import is_one_hot
from keras_bilevel.engine.compiled_losses import expanded
from keras_bilevel.engine.compiled_losses import numbers_shape
from keras_bilevel.engine.compiled_losses import per_example_sum

# What `fingerprints` are smaller than, and the factor that spreads them.
LARGEST = 2**31 - 1
_FACTOR = 2654435761

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


def are_classes(output):
    """Returns whether labels are classes, or each 0 or 1.

    Args:
        output: An `OutputLoss`, its labels an array. It may have predictions
            for another number of examples.
    """
    return _function(output.loss) in _BINARY or _classes(output) is not None


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


def fingerprints(output):
    """Returns a number for the label of each example.

    The same label has the same number at each visit, however the inputs are
    augmented, so that another number means another example. That is only so
    of classes and of 0-or-1 labels of the whole example: masks turn with
    their images, targets of a regression may too, and mixed labels are those
    of no one example.

    Args:
        output: An `OutputLoss`.

    Returns:
        int32 tensor of shape `(batch_size,)`, from 1 to `LARGEST - 1`, and 0
        where nothing can be told.
    """
    y = ops.convert_to_tensor(output.y)
    size, shape = ops.shape(y)[0], tuple(y.shape)[1:]
    is_class = shape in ((), (1,)) and not _is_float(y)
    if None in shape or not (is_class or _is_of_examples(output)):
        return ops.zeros((size,), "int32")
    columns = math.prod(shape)
    y = ops.reshape(y, (size, columns))
    codes = ops.cast(y, "int32")
    same = ops.cast(codes, "float32") == ops.cast(y, "float32")
    # Powers of one number: sums of some of them are no sums of others.
    factors = [pow(_FACTOR, i + 1, 2**32) for i in range(columns)]
    factors = np.array(factors, "uint32").view("int32")
    codes = ops.sum(codes * factors, axis=1)
    return ops.where(ops.all(same, axis=1), _in_range(codes), 0)


def joined(codes):
    """Returns one number for those of the labels of several outputs."""
    factors = [pow(_FACTOR, 2 * i, LARGEST) for i in range(len(codes))]
    return _in_range(sum(c * f for c, f in zip(codes, factors)))


def _in_range(codes):
    return ops.bitwise_and(codes, LARGEST - 2) + 1


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


def _is_float(y):
    return "float" in ops.dtype(y)


def _is_of_examples(output):
    """Returns whether labels are 0, 1 or classes, of an example as a whole."""
    is_known = _function(output.loss) in (*_BINARY, *_ONE_HOT, *_SPARSE)
    if not is_known:
        return False
    return len(numbers_shape(output.loss, output.y, output.y_pred)) == 1
