"""Numbers that tell whether a label is the one that an id had before."""

import math

import numpy as np
from keras import ops

from keras_bilevel.callbacks.agreement import is_of_examples

# What fingerprints are smaller than, and the factor that spreads them.
LARGEST = 2**31 - 1
_FACTOR = 2654435761


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
    if None in shape or not (is_class or is_of_examples(output)):
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


def _is_float(y):
    return "float" in ops.dtype(y)
