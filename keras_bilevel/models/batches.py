"""What a batch is made of, checked before the first step."""

import keras
import tensorflow as tf

from keras_bilevel import gradients


def examples(data):
    """Returns the `Batch` in `x`, `(x, y)`, `(x, y, w)` or `(x, y, w, ids)`."""
    data = data if isinstance(data, tuple) else (data,)
    return gradients.Batch(*data, *[None] * (2 - len(data)))


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
    source = gradients.Batch(*source)
    source.ids = ids
    return source, gradients.Batch(*target)


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


def check_ids(ids, num_examples):
    """Returns ids that fail, with all that needs them, outside of the range.

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
