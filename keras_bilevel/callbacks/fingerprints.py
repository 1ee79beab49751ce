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

    A label has the same number at each visit, so that another number means
    another example. This holds for classes and for 0-or-1 labels of the example
    as a whole. It does not for segmentation masks, which are augmented with
    their images, for targets of a regression, which may be, and for mixed
    labels, which belong to no single example: those have no number.

    Args:
        output: An `OutputLoss`.

    Returns:
        int32 tensor of shape `(batch_size,)`, from 1 to `LARGEST - 1`; 0 for a
        label without a number.
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
    # Powers of one number, so that different labels have different sums.
    factors = [pow(_FACTOR, i + 1, 2**32) for i in range(columns)]
    factors = np.array(factors, "uint32").view("int32")
    codes = ops.sum(codes * factors, axis=1)
    return ops.where(ops.all(same, axis=1), _in_range(codes), 0)


def joined(codes):
    """Combines the fingerprints of several outputs into one."""
    factors = [pow(_FACTOR, 2 * i, LARGEST) for i in range(len(codes))]
    return _in_range(sum(c * f for c, f in zip(codes, factors)))


def _in_range(codes):
    # `ops.bitwise_and` makes bfloat16 of a number where that is `floatx`.
    return (codes & (LARGEST - 2)) + 1


def _is_float(y):
    return "float" in ops.dtype(y)
