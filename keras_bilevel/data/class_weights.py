"""`class_weight` as sample weights, for all kinds of batches."""

import numbers

import keras
import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data import batches
from keras_bilevel.data.labels import is_one_hot
from keras_bilevel.data.pipelines import is_stream


def weighted(dataset, class_weight):
    """Multiplies sample weights by the weights of the classes.

    In source and target batches, only the source examples are weighed. The
    factors have the shape of the labels, without a last axis of one-hot or soft
    labels, or of length 1. The first batch decides whether the last axis holds
    one-hot labels, or tokens or pixels with a class each.

    Args:
        dataset: A dataset of batches.
        class_weight: Dictionary of integer classes to floats. Other classes
            weigh 1.

    Returns:
        A dataset of batches with sample weights.
    """
    classes, weights = _read(class_weight)
    spec = dataset.element_spec
    is_pair = batches.is_source_and_target(spec)
    y = spec[0][1] if is_pair else batches.examples(spec).y
    if y is None or keras.tree.is_nested(y):
        raise ValueError(
            "Expected a model with a single output, and labels, with "
            f"`class_weight`. Received: labels of structure {y}. Use "
            "`sample_weight` for several outputs."
        )
    labels = dataset.map(
        (lambda source, _: source[1]) if is_pair else (lambda x, y, *_: y)
    )
    to_classes = _to_classes(labels, y)

    def factors_of(y):
        return _look_up(to_classes(y), classes, weights)

    def weigh(x, y, sample_weight=None, *ids):
        if is_stream(dataset):
            # Labels have a class each, or a last axis for it.
            shape = y.shape if to_classes is _whole else y.shape[:-1]
            factors = tf.numpy_function(factors_of, [y], weights.dtype)
            factors = tf.ensure_shape(factors, shape)
        else:
            factors = factors_of(y)
        return (x, y, _product(sample_weight, factors), *ids)

    def weigh_source(source, target):
        *parts, ids = source
        return (*weigh(*parts), ids), target

    weighed = dataset.map(weigh_source if is_pair else weigh)
    return weighed.prefetch(tf.data.AUTOTUNE) if is_stream(dataset) else weighed


def _read(class_weight):
    """The classes, ascending, and their weights, as arrays."""
    is_dict = isinstance(class_weight, dict) and len(class_weight) > 0
    if not is_dict or not all(
        isinstance(key, numbers.Integral) and isinstance(value, numbers.Real)
        for key, value in class_weight.items()
    ):
        raise wrong_argument(
            "class_weight",
            class_weight,
            "a dictionary of integers, the classes, to floats",
            "`dict(enumerate(weights))` makes one of a list.",
        )
    classes = sorted(class_weight)
    weights = np.array([class_weight[label] for label in classes])
    return np.array(classes, "int64"), weights.astype(keras.config.floatx())


def _whole(y):
    return np.round(y).astype("int64")


def _column(y):
    return _whole(np.squeeze(y, axis=-1))


def _vector(y):
    return np.argmax(y, axis=-1)


def _to_classes(labels, spec):
    """The function that converts a batch of labels to integer classes.

    Args:
        labels: A dataset of arrays of shape `(batch_size, ...)`.
        spec: The spec of these arrays.
    """
    rank = batches.rank_of(spec.shape)
    if rank is None:
        raise ValueError(
            "Expected labels of known rank with `class_weight`. Received: "
            f"{spec}. Map the dataset with `tf.ensure_shape`."
        )
    if rank < 2:
        return _whole
    if spec.shape[-1] == 1:
        return _column
    # One-hot labels and tokens may have the same shape: look at the values.
    for y in labels.take(1):
        y = np.asarray(y)
        if y.shape[-1] == 1:
            return _column
        if is_one_hot(y):
            return _vector
        if np.all(y == np.round(y)):
            return _whole
        if np.allclose(np.sum(y, axis=-1), 1, atol=1e-2):
            return _vector
        raise ValueError(
            "Expected labels that are classes with `class_weight`: integers, "
            "one-hot or soft. Received: labels such as "
            f"{y.reshape(-1, y.shape[-1])[0]}"
        )
    return _whole


def _look_up(labels, classes, weights):
    place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    found = classes[place] == labels
    return np.where(found, weights[place], np.ones([], weights.dtype))


def _product(sample_weight, factors):
    """Weights times factors; one of them may have a lower rank."""
    if sample_weight is None:
        return factors
    if isinstance(sample_weight, np.ndarray):
        both = [sample_weight.astype(factors.dtype), factors]
    else:
        both = [tf.cast(sample_weight, factors.dtype), factors]
    rank = max(batches.rank_of(part.shape) for part in both)
    for i in range(2):
        while batches.rank_of(both[i].shape) < rank:
            both[i] = both[i][..., None]
    return both[0] * both[1]
