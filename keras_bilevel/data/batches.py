"""What a batch is made of, checked before the first step."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from keras_bilevel.data.arrays import check_outputs
from keras_bilevel.data.dense import wrong
from keras_bilevel.data.epochs import attached


@dataclasses.dataclass
class Batch:
    """Examples with their labels; tensors of shape `(batch_size, ...)`.

    Attributes:
        x: Inputs, a tensor or a structure of tensors.
        y: Targets, a tensor or a structure of tensors.
        sample_weight: The user's weights, or `None`.
        ids: Integer tensor of shape `(batch_size,)`, or `None`.
    """

    x: Any
    y: Any
    sample_weight: Any = None
    ids: Any = None


def examples(data):
    """Returns the `Batch` in `x`, `(x, y)`, `(x, y, w)` or `(x, y, w, ids)`."""
    data = data if isinstance(data, tuple) else (data,)
    return Batch(*data, *[None] * (2 - len(data)))


def source_and_target(data):
    """Returns the two `Batch`es of `((x, y[, w], ids), (x, y[, w]))`."""
    if not is_source_and_target(data):
        structure = keras.tree.map_structure(lambda t: "*", data)
        raise ValueError(
            "Expected batches `((x, y, ids), (x_target, y_target))`, or with "
            "sample weights `((x, y, sample_weight, ids), (x_target, y_target, "
            "sample_weight))`; ids are integers, one per source example. "
            f"Received: batches of structure {structure}. Build them with "
            "`kb.data.source_target_batches((x, y), (x_target, y_target), "
            "source_size=..., target_size=...)`."
        )
    (*source, ids), target = data
    source = Batch(*source)
    source.ids = ids
    return source, Batch(*target)


def is_source_and_target(data):
    """Returns whether a batch is `((x, y[, w], ids), (x, y[, w]))`."""
    if not (isinstance(data, tuple) and len(data) == 2):
        return False
    source, target = data
    if not (isinstance(source, tuple) and isinstance(target, tuple)):
        return False
    if len(source) not in (3, 4) or len(target) not in (2, 3):
        return False
    ids = source[-1]
    return (
        hasattr(ids, "dtype")
        and tf.as_dtype(ids.dtype).is_integer
        and len(ids.shape) == 1
    )


def check_labels(data):
    """Raises `ValueError` for labels of text, and outputs without weights.

    Args:
        data: A batch, or the specs of one, or arrays `(x, y[, w])`.
    """
    is_pair = is_source_and_target(data)
    for part in source_and_target(data) if is_pair else [examples(data)]:
        for label in keras.tree.flatten(part.y):
            if label is not None and tf.as_dtype(label.dtype) == tf.string:
                raise wrong(
                    "argument `y`",
                    "labels that are numbers",
                    f"text of dtype {label.dtype}",
                    "Encode it, for instance by `names, y = np.unique(y, "
                    "return_inverse=True)`, `pandas.factorize(y)` or "
                    "`keras.layers.StringLookup`.",
                )
        if part.sample_weight is not None:
            check_outputs(
                part.y, part.sample_weight, "argument `sample_weight`"
            )


def is_dataset(data):
    """Returns whether data are a `tf.data.Dataset`."""
    return isinstance(data, tf.data.Dataset)


def ranks(dataset):
    """Returns the number of axes of each tensor in a batch, a list."""
    return [s.shape.rank for s in keras.tree.flatten(dataset.element_spec)]


def sharded_by_data(dataset):
    """Returns a dataset of which each worker takes its part of a batch."""
    # Left alone, tf.data may give each worker files of its own.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


def with_ids_checked(dataset, num_examples):
    """Returns source and target batches that fail on ids out of range."""

    def check(source, target):
        *parts, ids = source
        return (*parts, check_ids(ids, num_examples)), target

    return dataset.map(check)


def check_ids(ids, num_examples):
    """Returns ids guarded by an assertion of their range.

    Args:
        ids: Integer tensor of shape `(batch_size,)`.
        num_examples: Integer, or `None` where any id will do.
    """
    if num_examples is None:
        return ids
    message = (
        f"Expected example ids in [0, {num_examples}), as the weighting was "
        "made with num_examples. Received: an id outside."
    )
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(ids, message),
            tf.debugging.assert_less(
                ids, tf.cast(num_examples, ids.dtype), message
            ),
        ]
    ):
        return tf.identity(ids)


def check_fixed_size(dataset):
    """Raises `ValueError` where super-batches may differ in size."""
    specs = keras.tree.flatten(dataset.element_spec)
    if any(spec.shape.rank and spec.shape[0] is None for spec in specs):
        raise ValueError(
            "Expected super-batches of one fixed size. Received: a dataset "
            f"with element_spec={dataset.element_spec}. Build it with "
            "`kb.data.stratified_batches`, or pass `drop_remainder=True` "
            "to `batch`."
        )


def check_super_batches(dataset, weighting, num_replicas):
    """Raises `ValueError` for super-batches that cannot be cut into shards.

    Args:
        dataset: A `tf.data.Dataset`.
        weighting: A `Weighting` whose unit is the shard.
        num_replicas: Integer.
    """
    check_fixed_size(dataset)
    shards = num_replicas * weighting.num_shards
    size = _size(dataset.element_spec)
    if num_replicas > 1 and size % shards:
        raise ValueError(
            "Expected super-batches of a multiple of num_replicas * num_shards "
            f"= {num_replicas} * {weighting.num_shards} examples. Received: "
            f"super-batches of {size}. Build them with `kb.data."
            f"stratified_batches(..., num_replicas={num_replicas})`."
        )
    for layout in attached(dataset, "layout"):
        fits = layout.tuple_size % shards == 0
        if layout.separate_validation:
            fits = (
                layout.num_replicas == num_replicas
                and layout.num_shards == weighting.num_shards
                and layout.num_validation_shards
                == weighting.num_validation_shards
            )
        if not fits:
            raise ValueError(
                "Expected super-batches with num_shards="
                f"{weighting.num_shards}, num_validation_shards="
                f"{weighting.num_validation_shards}, num_replicas="
                f"{num_replicas}, or shards would not have the same label "
                f"counts. Received: num_shards={layout.num_shards}, "
                f"num_validation_shards={layout.num_validation_shards}, "
                f"num_replicas={layout.num_replicas}. Pass the former to "
                "`kb.data.stratified_batches`."
            )


def check_split(dataset, num_replicas):
    """Raises `ValueError` where replicas would get unequal parts.

    Args:
        dataset: A `tf.data.Dataset` of `((x, y, ids), (x_t, y_t))`.
        num_replicas: Integer.
    """
    if num_replicas == 1:
        return
    for name, part in zip(("source", "target"), dataset.element_spec):
        size = _size(part)
        if size is None:
            raise ValueError(
                f"Expected {name} batches of one fixed size with "
                f"{num_replicas} replicas. Received: element_spec={part}. Pass "
                "`drop_remainder=True` to what makes the batches."
            )
        if size % num_replicas:
            raise ValueError(
                f"Invalid value for argument `{name}_size`. Expected a "
                f"multiple of the number of replicas, {num_replicas}: each "
                f"takes an equal part. Received: {name}_size={size}"
            )


def _size(spec):
    shapes = [leaf.shape for leaf in keras.tree.flatten(spec)]
    return next(shape[0] for shape in shapes if shape.rank)
