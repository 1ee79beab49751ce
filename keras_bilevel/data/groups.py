"""`stratify_by`: which group an example belongs to."""

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel.data.labels import class_ids

MEND = (
    "Pass as `stratify_by` a function that maps one example's `(x, y)` to an "
    "integer group, or `None` to turn stratification off."
)


def check_stratify_by(stratify_by):
    """Raises a `ValueError` unless `stratify_by` is of a known kind."""
    if stratify_by is None or callable(stratify_by):
        return
    if isinstance(stratify_by, str) and stratify_by != "label":
        raise ValueError(
            "Invalid value for argument `stratify_by`. Expected 'label', a "
            "function, an array of integers or None. Received: "
            f"stratify_by='{stratify_by}'"
        )


def array_groups(x, y, num_examples, stratify_by):
    """The group of each example of a data set in memory.

    Args:
        x: Inputs, a structure of arrays of shape `(n, ...)`.
        y: Labels, a structure of arrays of shape `(n, ...)`.
        num_examples: Integer, `n`.
        stratify_by: See `stratified_batches`.

    Returns:
        Integer array of shape `(n,)`.
    """
    check_stratify_by(stratify_by)
    if stratify_by is None:
        return np.zeros(num_examples, "int64")
    if callable(stratify_by):
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        return collect(examples.map(example_grouper(examples, stratify_by)))
    if isinstance(stratify_by, str):
        return _label_groups(y)
    return _given_groups(stratify_by, num_examples)


def collect(scalars):
    """A dataset of integers as one NumPy array."""
    batches = list(scalars.batch(4096).as_numpy_iterator())
    return np.concatenate(batches) if batches else np.zeros(0, "int64")


def example_grouper(dataset, stratify_by):
    """The function from one example to its group.

    Args:
        dataset: A `tf.data.Dataset` of single examples `(x, y, ...)`.
        stratify_by: `"label"`, a function or `None`.

    Returns:
        A function `(x, y, ...)` to an int64 scalar tensor.
    """
    check_stratify_by(stratify_by)
    if stratify_by is None:
        return lambda *example: tf.constant(0, "int64")
    if callable(stratify_by):
        return _CallableGroup(stratify_by)
    if not isinstance(stratify_by, str):
        raise ValueError(
            "Invalid value for argument `stratify_by`. An array of groups "
            "needs data that are arrays too. Received: stratify_by of type "
            f"{type(stratify_by).__name__} with a `tf.data.Dataset`. {MEND}"
        )
    return _label_grouper(dataset)


class _CallableGroup:
    """Calls the user's function and checks what it returned."""

    def __init__(self, function):
        self._function = function

    def __call__(self, x, y, *_):
        group = tf.convert_to_tensor(self._function(x, y))
        discrete = group.dtype.is_integer or group.dtype.is_bool
        if not discrete or group.shape.num_elements() != 1:
            raise ValueError(
                "Invalid value for argument `stratify_by`. Expected a function "
                "that maps one example's `(x, y)` to one integer. Received a "
                f"function that returned dtype {group.dtype.name} and shape "
                f"{group.shape}. If the dataset is batched, apply "
                "`.unbatch()` first."
            )
        return tf.cast(tf.reshape(group, []), "int64")


def _label_groups(y):
    if keras.tree.is_nested(y):
        raise _wrong_labels(f"a {type(y).__name__}")
    labels = np.asarray(y)
    groups = class_ids(labels)
    if groups is None:
        raise _wrong_labels(f"dtype {labels.dtype} and shape {labels.shape}")
    return groups


def _given_groups(groups, num_examples):
    groups = np.asarray(groups)
    if groups.dtype.kind not in "iub" or groups.shape != (num_examples,):
        raise ValueError(
            "Invalid value for argument `stratify_by`. Expected one integer "
            f"group for each of the {num_examples} examples. Received an array "
            f"of dtype {groups.dtype} and shape {groups.shape}."
        )
    return groups.astype("int64")


def _label_grouper(dataset):
    spec = dataset.element_spec[1]
    if not isinstance(spec, tf.TensorSpec):
        raise _wrong_labels(f"a {type(spec).__name__}")
    discrete = spec.dtype.is_integer or spec.dtype.is_bool
    if discrete and spec.shape.num_elements() == 1:
        return lambda x, y, *_: tf.cast(tf.reshape(y, []), "int64")
    if spec.shape.rank == 1 and (discrete or spec.dtype.is_floating):
        # Soft labels and batches look alike: only the numbers tell.
        for _, label, *_ in dataset.take(1):
            if class_ids(label.numpy()[None]) is None:
                raise _wrong_labels(f"{label.numpy()}")
        return _one_hot_group
    raise _wrong_labels(f"dtype {spec.dtype.name} and shape {spec.shape}")


def _one_hot_group(x, y, *_):
    label = tf.cast(y, "float32")
    binary = tf.reduce_all((label == 0) | (label == 1))
    one_hot = binary & (tf.reduce_sum(label) == 1)
    tf.debugging.Assert(one_hot, [str(_wrong_labels("value")), y])
    return tf.argmax(label)


def _wrong_labels(received):
    return ValueError(
        "Invalid value for argument `stratify_by`. With "
        "`stratify_by='label'` the labels must be integers or one-hot "
        "vectors, one per example (a batched dataset needs `.unbatch()`). "
        f"{MEND} Received: y of {received}"
    )
