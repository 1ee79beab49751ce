"""A dataset without the examples that a mask leaves out."""

import tensorflow as tf


def kept_examples(dataset, mask):
    """Returns the examples of a dataset that a mask keeps.

    Args:
        dataset: A `tf.data.Dataset` of single examples. They are told by their
            ids where elements are `(x, y, sample_weight, ids)`, and else by
            their position.
        mask: Boolean array of shape `(n,)`.
    """
    spec = dataset.element_spec
    if isinstance(spec, tuple) and len(spec) == 4:
        return _kept_ids(dataset, mask)
    return _kept_positions(dataset, mask)


def _kept_ids(dataset, mask):
    shape = dataset.element_spec[3].shape
    if shape.rank:
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of single "
            f"examples. Received: ids of shape {shape}. Clean it before "
            "`batch`, or call `unbatch` first."
        )
    return dataset.filter(lambda x, y, sample_weight, i: tf.gather(mask, i))


def _kept_positions(dataset, mask):
    size = dataset.cardinality().numpy()
    if size not in (len(mask), tf.data.UNKNOWN_CARDINALITY):
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of "
            f"{len(mask)} single examples, one for each score. Received: "
            f"{size} elements. Clean it before `batch` and `repeat`."
        )
    kept = dataset.enumerate().filter(lambda i, element: tf.gather(mask, i))
    kept = kept.map(lambda i, element: element)
    # Tells `fit` the number of steps, and an unknown size that was wrong.
    return kept.apply(tf.data.experimental.assert_cardinality(mask.sum()))
