"""Single examples of a stream, with their position and their group."""

import keras
import tensorflow as tf

from keras_bilevel.data.groups import example_grouper


def stream_examples(dataset, stratify_by, ids):
    """Adds what the later stages need to each example.

    Args:
        dataset: A `tf.data.Dataset` of `(x, y)`, `(x, y, sample_weight)` or
            `(x, y, sample_weight, ids)`.
        stratify_by: `"label"`, a function or `None`.
        ids: Boolean, whether to add sample weights and positions.

    Returns:
        A `tf.data.Dataset` of `(position, group, example)`.
    """
    _check_single_examples(dataset.element_spec)
    group_of = example_grouper(dataset, stratify_by)

    def label(position, example):
        group = group_of(*example)
        return position, group, _with_id(example, position) if ids else example

    return dataset.enumerate().map(
        label, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _with_id(example, position):
    if len(example) == 4:
        return example
    x, y, sample_weight = (*example, tf.constant(1.0))[:3]
    return x, y, sample_weight, position


def _check_single_examples(spec):
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
