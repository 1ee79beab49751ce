"""The parts of a batch, and checks of them before the first step."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_bilevel import keras_private
from keras_bilevel._backend import tf
from keras_bilevel.checks import wrong
from keras_bilevel.data.arrays import check_outputs
from keras_bilevel.data.pipelines import NumpyBatches
from keras_bilevel.data.pipelines import is_stream


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
    """Returns `x`, `(x, y)`, `(x, y, w)` or `(x, y, w, ids)` as a `Batch`."""
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
        and _name(ids.dtype).startswith(("int", "uint"))
        and len(ids.shape) == 1
    )


# How the names of dtypes of text begin, of TensorFlow and of NumPy.
TEXT = ("string", "str", "bytes", "object")


def _name(dtype):
    return getattr(dtype, "name", str(dtype))


def check_labels(data):
    """Raises `ValueError` for text labels, or weights that miss an output.

    Args:
        data: A batch, or the specs of one, or arrays `(x, y[, w])`.
    """
    is_pair = is_source_and_target(data)
    for part in source_and_target(data) if is_pair else [examples(data)]:
        for label in keras.tree.flatten(part.y):
            if label is not None and _name(label.dtype).startswith(TEXT):
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
    """Returns whether data are batches whose structure is known."""
    return is_stream(data) or isinstance(data, NumpyBatches)


def spec_of(dataset):
    """Returns the `element_spec` of a dataset, with `None` for each `None`."""
    return keras.tree.map_structure(
        # TensorFlow 2.18 has no public name for the spec of `None`.
        lambda spec: spec if hasattr(spec, "shape") else None,
        dataset.element_spec,
    )


def with_ids_checked(dataset, num_examples):
    """Returns a dataset of pairs that raises for source ids out of range."""

    def check(source, target):
        *parts, ids = source
        return (*parts, check_ids(ids, num_examples)), target

    return dataset.map(check)


def check_ids(ids, num_examples):
    """Returns ids guarded by an assertion of their range.

    Args:
        ids: Integer tensor of shape `(batch_size,)`.
        num_examples: Integer, or `None` if any id is valid.
    """
    if num_examples is None:
        return ids
    message = (
        f"Expected example ids in [0, {num_examples}), as the weighting, rule "
        "or callback was made with num_examples. Received: an id outside."
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


def batch_size_of(spec):
    """Returns the batch size of a spec, `None` if it may vary."""
    shapes = [leaf.shape for leaf in tensors(spec)]
    sizes = [shape[0] for shape in shapes if rank_of(shape)]
    return None if None in sizes or not sizes else sizes[0]


def rank_of(shape):
    """Returns the rank of a shape, `None` where it is not known."""
    return len(shape) if isinstance(shape, tuple) else shape.rank


def tensors(structure):
    """Returns the tensors in a structure, without `None`."""
    return [t for t in keras.tree.flatten(structure) if t is not None]


def map_tensors(function, structure):
    """Maps the tensors in a structure, and keeps `None`."""
    return keras.tree.map_structure(
        lambda t: None if t is None else function(t), structure
    )


def per_row(values, tensor):
    """Reshapes values of shape `(rows,)` to the rank of a tensor of rows."""
    return ops.reshape(values, (-1, *[1] * (len(tensor.shape) - 1)))


def map_rows(function, y_pred):
    """Maps predictions, and the Keras masks and logits attached to them.

    Args:
        function: Callable of a tensor, which acts on its rows.
        y_pred: Structure of tensors.
    """
    return map_tensors(
        lambda t: keras_private.map_companions(function, t, function(t)),
        y_pred,
    )


def get_masks(y_pred):
    """Returns the Keras masks of predictions, a dict of position to mask."""
    places = enumerate(keras.tree.flatten(y_pred))
    masks = {place: keras_private.mask_of(t) for place, t in places}
    return {place: mask for place, mask in masks.items() if mask is not None}


def set_masks(y_pred, masks):
    """Attaches masks from `get_masks` to predictions of the same structure."""
    tensors = keras.tree.flatten(y_pred)
    for place, mask in masks.items():
        keras_private.set_mask(tensors[place], mask)
    return y_pred
