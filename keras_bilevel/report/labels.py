"""Labels as classes and as names."""

import numpy as np

from keras_bilevel.data.labels import class_ids
from keras_bilevel.report.scores import read_column


def read_classes(y, num_rows):
    """Returns the integer class of each example.

    Args:
        y: Integers of shape `(num_rows,)` or `(num_rows, 1)`, or one-hot
            vectors of shape `(num_rows, num_classes)`.
        num_rows: Integer, the number of scores.
    """
    y = np.asarray(y)
    classes = class_ids(y)
    if classes is None:
        raise ValueError(
            "Invalid value for argument `y`. Expected integers of shape (n,) "
            "or (n, 1), or one-hot vectors of shape (n, num_classes). "
            f"Received: dtype {y.dtype} and shape {y.shape}"
        )
    return read_column("y", classes, num_rows)


def names_of(classes, class_names):
    """Returns a list of the names of integer classes.

    Args:
        classes: Integer array of any length.
        class_names: Sequence, the name of class `i` at place `i`; or `None`,
            for the integers themselves.
    """
    if class_names is None:
        return [str(label) for label in classes]
    for label in classes:
        if not 0 <= label < len(class_names):
            raise ValueError(
                "Invalid value for argument `class_names`. Expected a name "
                f"for every class, class {label} among them. "
                f"Received: {len(class_names)} names"
            )
    return [str(class_names[label]) for label in classes]
