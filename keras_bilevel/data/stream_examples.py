"""What the elements of a stream must be, and how they get ids."""

import keras
import tensorflow as tf


def check_single_examples(dataset):
    """Raises a `ValueError` unless elements are single `(x, y, ...)`."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3, 4):
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of `(x, y)`,"
            " `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`. "
            f"Received: element_spec={spec}"
        )
    shapes = [leaf.shape for leaf in keras.tree.flatten(spec)]
    if all(shape.rank and shape[0] is None for shape in shapes):
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of single "
            "examples. Received batches, all of unknown length. Apply "
            "`.unbatch()` first."
        )


def check_finite(dataset):
    """Raises a `ValueError` for a stream that is known to have no end."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Invalid value for argument `validation_ratio`. Expected 0 for a "
            "dataset without end, which cannot be split. Apply `.repeat()` to "
            "the super-batches instead. Received: an infinite dataset."
        )


def with_ids(positions, batch):
    """`(x, y, sample_weight, ids)` of super-batches.

    Args:
        positions: int64 tensor of shape `(steps, batch_size)`, where the
            examples are in the stream. They are the ids unless the batches
            have their own.
        batch: Tuple `(x, y)`, `(x, y, sample_weight)` or
            `(x, y, sample_weight, ids)`, leaves of shape
            `(steps, batch_size, ...)`.
    """
    if len(batch) == 4:
        return batch
    ones = tf.ones_like(positions, keras.config.floatx())
    x, y, sample_weight = (*batch, ones)[:3]
    return x, y, sample_weight, positions
