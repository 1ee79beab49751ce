"""Labels as classes, and the groups that shards are stratified by."""

import math

import keras
import numpy as np
from keras import ops

from keras_bilevel._backend import tf
from keras_bilevel.checks import wrong


def is_one_hot(labels):
    """Whether each row has a single 1 and otherwise zeros.

    Args:
        labels: Array of shape `(n, num_classes)`.
    """
    binary = np.all((labels == 0) | (labels == 1))
    return bool(binary and np.all(labels.sum(axis=-1) == 1))


def is_integer_classes(labels):
    """Whether labels have the shape and dtype of integer classes."""
    column = labels.ndim == 2 and labels.shape[1] == 1
    return labels.dtype.kind in "iub" and (labels.ndim == 1 or column)


def class_ids(labels):
    """The class of each example.

    Args:
        labels: Array of integer or boolean classes, of shape `(n,)` or
            `(n, 1)`, or one-hot vectors of any numeric type, of shape
            `(n, num_classes)`.

    Returns:
        Integer array of shape `(n,)`, or `None` where the labels are neither.
    """
    if is_integer_classes(labels):
        return labels.reshape(-1).astype("int64")
    vectors = labels.ndim == 2 and labels.dtype.kind in "iubf"
    if vectors and labels.shape[1] > 1 and is_one_hot(labels):
        return labels.argmax(axis=-1)
    return None


def read_class_ids(name, labels):
    """Returns the class of each example, or raises `ValueError`.

    Args:
        name: String, the name of the argument.
        labels: What `class_ids` takes, or what NumPy converts to it.

    Returns:
        Integer array of shape `(n,)`.
    """
    labels = np.asarray(labels)
    classes = class_ids(labels)
    if classes is None:
        raise wrong(
            f"argument `{name}`",
            "integers of shape (n,) or (n, 1), or one-hot vectors of shape "
            "(n, num_classes)",
            f"dtype {labels.dtype} and shape {labels.shape}",
            f"Pass the classes of tokens or pixels as `{name}.reshape(-1)`, "
            f"and names as `np.unique({name}, return_inverse=True)[1]`.",
        )
    return classes


def traced_class_ids(labels):
    """The class of each example, in a graph, where values are unknown.

    Args:
        labels: Tensor like the arrays that `class_ids` takes. Vectors are
            assumed to be one-hot.

    Returns:
        int32 tensor of shape `(n,)`.
    """
    if keras.tree.is_nested(labels) or labels is None:
        raise _no_classes(f"y of type {type(labels).__name__}")
    kind = keras.backend.standardize_dtype(labels.dtype)
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] != 1:
        return ops.argmax(labels, axis=1)
    if shape[1:] not in ((), (1,)) or "float" in kind:
        raise _no_classes(f"y of dtype {kind} and shape {shape}")
    return ops.cast(ops.reshape(labels, (-1,)), "int32")


def check_classes(labels):
    """Raises `ValueError` for arrays that `class_ids` cannot read.

    Args:
        labels: Array or structure of arrays of shape `(n, ...)`.
    """
    if keras.tree.is_nested(labels) or labels is None:
        raise _no_classes(f"y of type {type(labels).__name__}")
    labels = np.asarray(labels)
    if class_ids(labels) is None:
        raise _no_classes(f"y of dtype {labels.dtype} and shape {labels.shape}")


def _no_classes(received):
    return ValueError(
        "Expected labels that are classes, since the rule asks for them: "
        "integers of shape `(n,)` or `(n, 1)`, or one-hot vectors. "
        f"Received: {received}. Make integers of floats that stand for "
        "classes, or take another rule."
    )


HINT = (
    "Pass as `stratify_by` a function that maps one example's `(x, y)` to an "
    "integer group, or `None` to turn stratification off."
)


def check_stratify_by(stratify_by):
    """Raises a `ValueError` unless `stratify_by` is of a known kind."""
    if stratify_by is None or callable(stratify_by):
        return
    if isinstance(stratify_by, str) and stratify_by != "label":
        raise wrong(
            "argument `stratify_by`",
            "'label', a function, an array of integers or None",
            f"stratify_by='{stratify_by}'",
        )


def check_stratify_by_of_model(stratify_by):
    """As `check_stratify_by`, for a model, which does not hold any data."""
    check_stratify_by(stratify_by)
    is_known = isinstance(stratify_by, str) or callable(stratify_by)
    if stratify_by is not None and not is_known:
        raise wrong(
            "argument `stratify_by`",
            "'label', a function or None",
            f"stratify_by of type {type(stratify_by).__name__}",
            "To stratify by an array, pass it to "
            "`kb.data.stratified_batches((x, y), ..., stratify_by=groups)`, "
            "and that to `fit`.",
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
        return _called_groups(x, y, num_examples, stratify_by)
    if isinstance(stratify_by, str):
        return _label_groups(y)
    return _given_groups(stratify_by, num_examples)


def _called_groups(x, y, num_examples, function):
    group_of = _CallableGroup(function)
    if tf is not None:
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        return concatenate_groups(examples.map(group_of).batch(4096))
    examples = (
        keras.tree.map_structure(lambda array: array[row], (x, y))
        for row in range(num_examples)
    )
    return np.array([group_of(*example) for example in examples], "int64")


def concatenate_groups(groups):
    """A dataset of vectors of integers as one NumPy array."""
    return np.concatenate([np.zeros(0, "int64"), *groups.as_numpy_iterator()])


def grouped_chunks(dataset, stratify_by, size):
    """Batches of examples, and the group of each example.

    Args:
        dataset: A `tf.data.Dataset` of single examples `(x, y, ...)`.
        stratify_by: `"label"`, a function or `None`.
        size: Integer, examples of a batch.

    Returns:
        A `tf.data.Dataset` of `(groups, (x, y, ...))`, where groups are int64
        vectors.
    """
    check_stratify_by(stratify_by)
    if callable(stratify_by):
        group_of = _CallableGroup(stratify_by)
        return dataset.map(lambda *ex: (group_of(*ex), ex)).batch(size)
    if stratify_by is None:
        groups_of = _one_group
    elif isinstance(stratify_by, str):
        _check_label_spec(dataset)
        groups_of = _traced_label_groups
    else:
        raise ValueError(
            "Invalid value for argument `stratify_by`. An array of groups "
            "needs data that are arrays too. Received: stratify_by of type "
            f"{type(stratify_by).__name__} with a `tf.data.Dataset`. {HINT}"
        )
    return dataset.batch(size).map(lambda *ex: (groups_of(ex[1]), ex))


def _one_group(y):
    return tf.zeros(tf.shape(keras.tree.flatten(y)[0])[:1], "int64")


def _traced_label_groups(y):
    return tf.ensure_shape(
        tf.numpy_function(_label_groups, [y], "int64"), [None]
    )


class _CallableGroup:
    """Calls the user's function and checks what it returned."""

    def __init__(self, function):
        self._function = function

    def __call__(self, x, y, *_):
        group = self._function(x, y)
        group = np.asarray(group) if tf is None else tf.convert_to_tensor(group)
        kind = group.dtype.name
        discrete = kind.startswith(("int", "uint", "bool"))
        if not discrete or math.prod(group.shape) != 1:
            raise ValueError(
                "Invalid value for argument `stratify_by`. Expected a function "
                "that maps one example's `(x, y)` to one integer. Received: a "
                f"function that returned dtype {kind} and shape "
                f"{group.shape}. If the dataset is batched, apply "
                "`.unbatch()` first."
            )
        if tf is None:
            return int(group.item())
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
            f"group for each of {num_examples} examples. Received: an array "
            f"of dtype {groups.dtype} and shape {groups.shape}."
        )
    return groups.astype("int64")


def _check_label_spec(dataset):
    spec = dataset.element_spec[1]
    if not isinstance(spec, tf.TensorSpec):
        raise _wrong_labels(f"a {type(spec).__name__}")
    discrete = spec.dtype.is_integer or spec.dtype.is_bool
    if discrete and spec.shape.rank is not None and spec.shape in ((), (1,)):
        return
    if spec.shape.rank != 1 or not (discrete or spec.dtype.is_floating):
        raise _wrong_labels(f"dtype {spec.dtype.name} and shape {spec.shape}")
    # One-hot labels, soft labels and batches have the same shape: look at the
    # values.
    for _, label, *_ in dataset.take(1):
        if class_ids(label.numpy()[None]) is None:
            raise _wrong_labels(f"{label.numpy()}")


def _wrong_labels(received):
    return ValueError(
        "Invalid value for argument `stratify_by`. Expected, with "
        "`stratify_by='label'`, labels that are integers or one-hot vectors, "
        f"one per example. Received: y of {received}. Make integers of floats "
        "or text that stand for classes, and `.unbatch()` a batched dataset. "
        f"{HINT}"
    )
