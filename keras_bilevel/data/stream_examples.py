"""What the elements of a stream must be, and how they get ids."""

import keras
import tensorflow as tf

_VARIED = (
    "Expected examples of one shape, of which batches can be made. Received: "
    "examples of varied shapes. Pad them to one length, for instance by "
    "`dataset.padded_batch(1, padded_shapes).unbatch()`."
)


def check_dense(dataset):
    """Raises a `ValueError` for a stream of sparse or ragged tensors."""
    mends = {
        tf.SparseTensorSpec: "`tf.sparse.to_dense` in a `map`",
        tf.RaggedTensorSpec: "`.to_tensor()` of all of them, or padding",
    }
    for spec in keras.tree.flatten(dataset.element_spec):
        if type(spec) in mends:
            raise ValueError(
                f"Expected dense tensors. Received: {spec}. Make them dense, "
                f"by {mends[type(spec)]}."
            )


def same_shapes(dataset, most):
    """The examples, and an error as soon as two of them differ in shape.

    Args:
        dataset: A `tf.data.Dataset` of single examples.
        most: Integer, how many examples are read now, where their shape is
            unknown, to fail early.

    Returns:
        A `tf.data.Dataset` of the same examples.
    """
    specs = keras.tree.flatten(dataset.element_spec)
    places = [
        place
        for place, spec in enumerate(specs)
        if not spec.shape.is_fully_defined()
    ]
    if not places:
        return dataset

    def check(first, example):
        leaves = keras.tree.flatten(example)
        shapes = [tf.shape(leaves[place]) for place in places]
        shapes = tf.concat(shapes, axis=0)
        first = tf.cond(tf.size(first) == 0, lambda: shapes, lambda: first)
        with tf.control_dependencies(
            [tf.debugging.assert_equal(first, shapes, _VARIED)]
        ):
            example = keras.tree.map_structure(tf.identity, example)
        return tf.ensure_shape(first, [None]), example

    checked = dataset.scan(tf.zeros([0], "int32"), check)
    try:
        for _ in checked.take(most):
            pass
    except tf.errors.InvalidArgumentError as error:
        if _VARIED in str(error):
            raise ValueError(_VARIED) from None
        raise
    return checked


def check_single_examples(dataset):
    """Raises a `ValueError` unless elements are single `(x, y, ...)`."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3, 4):
        raise ValueError(
            "Invalid value for argument `data`. Expected a dataset of `(x, y)`,"
            " `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`. "
            f"Received: element_spec={spec}"
        )
    check_dense(dataset)
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
