"""`class_weight` as sample weights, for all kinds of batches."""

import numbers

import keras
import numpy as np
import tensorflow as tf

from keras_bilevel.data import batches
from keras_bilevel.data.labels import is_one_hot


def weighted(dataset, class_weight):
    """Multiplies sample weights by the weights of the classes.

    In source and target batches, only the source examples are weighed. The
    factors have the shape of the labels, without a last axis of one-hot or soft
    labels, or of length 1. The first batch decides whether the last axis holds
    one-hot labels, or tokens or pixels with a class each.

    Args:
        dataset: A `tf.data.Dataset` of batches.
        class_weight: Dictionary of integer classes to floats. Other classes
            weigh 1.

    Returns:
        A `tf.data.Dataset` of batches with sample weights.
    """
    weights = _read(class_weight)
    spec = dataset.element_spec
    is_pair = batches.is_source_and_target(spec)
    y = spec[0][1] if is_pair else batches.examples(spec).y
    if y is None or keras.tree.is_nested(y):
        raise ValueError(
            "`class_weight` is only supported for models with a single "
            "output, and with labels. Use `sample_weight` for several. "
            f"Received: labels of structure {y}"
        )
    labels = dataset.map(
        (lambda source, _: source[1]) if is_pair else (lambda x, y, *_: y)
    )
    to_classes = _to_classes(labels)

    def weigh(x, y, sample_weight=None, *ids):
        factors = _look_up(to_classes(y), *weights)
        return (x, y, _product(sample_weight, factors), *ids)

    def weigh_source(source, target):
        *parts, ids = source
        return (*weigh(*parts), ids), target

    dataset = dataset.map(weigh_source if is_pair else weigh)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _read(class_weight):
    """The classes, ascending, and their weights, as arrays."""
    is_dict = isinstance(class_weight, dict) and len(class_weight) > 0
    if not is_dict or not all(
        isinstance(key, numbers.Integral) and isinstance(value, numbers.Real)
        for key, value in class_weight.items()
    ):
        raise ValueError(
            "Invalid value for argument `class_weight`. Expected a dictionary "
            "of integers, the classes, to floats. Received: class_weight="
            f"{class_weight}. `dict(enumerate(weights))` makes one of a list."
        )
    classes = sorted(class_weight)
    weights = np.array([class_weight[label] for label in classes])
    return np.array(classes, "int64"), weights.astype(keras.config.floatx())


def _to_classes(labels):
    """The function that converts a batch of labels to integer classes.

    Args:
        labels: A `tf.data.Dataset` of tensors of shape `(batch_size, ...)`.
    """
    spec = labels.element_spec

    def whole(y):
        y = tf.round(y) if y.dtype.is_floating else y
        return tf.cast(y, "int64")

    def column(y):
        return whole(tf.squeeze(y, axis=-1))

    def vector(y):
        return tf.argmax(tf.cast(y, "float32"), axis=-1)

    if spec.shape.rank is None:
        raise ValueError(
            "Expected labels of known rank with `class_weight`. Received: "
            f"{spec}. Map the dataset with `tf.ensure_shape`."
        )
    if spec.shape.rank < 2:
        return whole
    if spec.shape[-1] == 1:
        return column
    # One-hot labels and tokens may have the same shape: look at the values.
    for y in labels.take(1).as_numpy_iterator():
        if y.shape[-1] == 1:
            return column
        if is_one_hot(y):
            return vector
        if np.all(y == np.round(y)):
            return whole
        if np.allclose(np.sum(y, axis=-1), 1, atol=1e-2):
            return vector
        raise ValueError(
            "Expected labels that are classes with `class_weight`: integers, "
            "one-hot or soft. Received: labels such as "
            f"{y.reshape(-1, y.shape[-1])[0]}"
        )
    return whole


def _look_up(labels, classes, weights):
    flat = tf.reshape(labels, [-1])
    place = tf.minimum(tf.searchsorted(classes, flat), len(classes) - 1)
    found = tf.gather(classes, place) == flat
    one = tf.ones([], weights.dtype)
    factors = tf.where(found, tf.gather(weights, place), one)
    return tf.ensure_shape(tf.reshape(factors, tf.shape(labels)), labels.shape)


def _product(sample_weight, factors):
    """Weights times factors; one of them may have a lower rank."""
    if sample_weight is None:
        return factors
    both = [tf.cast(sample_weight, factors.dtype), factors]
    rank = max(part.shape.rank for part in both)
    for i in range(2):
        while both[i].shape.rank < rank:
            both[i] = both[i][..., None]
    return both[0] * both[1]
