"""Pairs of batches: the source is weighed, by means of the target."""

import keras
import numpy as np

from keras_bilevel._backend import tf
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.arrays import array_columns
from keras_bilevel.data.arrays import check_no_steps
from keras_bilevel.data.arrays import check_steps
from keras_bilevel.data.arrays import unpack_arrays
from keras_bilevel.data.draws import ArraySource
from keras_bilevel.data.draws import StreamSource
from keras_bilevel.data.draws import TargetDraws
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.labels import class_ids
from keras_bilevel.data.pipelines import each_epoch
from keras_bilevel.data.pipelines import is_stream
from keras_bilevel.data.pipelines import planned_batches
from keras_bilevel.data.streams import check_dense
from keras_bilevel.data.streams import same_shapes


def source_target_batches(
    source,
    target,
    source_size,
    target_size,
    *,
    drop_remainder=True,
    shuffle=True,
    steps_per_epoch=None,
    shuffle_buffer=10_000,
    seed=None,
):
    """Pairs of a source batch, to learn from, and a small target batch.

    SOSELETO and Learning to Reweight weigh each example of a large source set
    (noisy labels, another task) by how much it helps to lower the loss on a
    small target set.

    An epoch is a pass over the source: each source example is seen at most
    once. Fewer than `source_size` examples are left over, different ones in
    each epoch if they are shuffled.

    The target repeats as needed, in passes that are each permuted anew. A new
    epoch continues the current pass, so that over any number of epochs all
    target examples are seen equally often, up to one time. There is one
    exception: with a source dataset of unknown cardinality, each epoch begins a
    new pass. `tf.data.experimental.assert_cardinality` avoids this.

    The order is a pure function of `(seed, epoch)`, given datasets that
    themselves come in a fixed order. The first iteration is epoch 0, the next
    one epoch 1, unless `epoch_counters(dataset)` are set otherwise.

    Args:
        source: Arrays or a dataset. Arrays: a tuple `(x, y)` or
            `(x, y, sample_weight)`, each an array or a nested dictionary or
            tuple of arrays of shape `(n, ...)`. They are held in memory.
            Dataset: a `tf.data.Dataset` of single examples `(x, y)`,
            `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`. Ids are the
            row numbers of arrays, or the positions in a dataset. A dataset
            without ids of its own therefore needs a fixed order. If its
            cardinality is unknown, one batch is read immediately, to check that
            there are enough examples.
        target: Arrays or a dataset, as `source` but without ids. The target set
            is small: a dataset is read once, immediately, and held in memory.
            It must be finite.
        source_size: Integer, source examples of a batch.
        target_size: Integer, target examples of a batch. It may exceed the
            size of the target set.
        drop_remainder: Boolean, whether to leave out the last source batch of a
            pass if it is smaller. `True` gives static shapes. It also avoids a
            bad last step before an evaluation: in a small batch, a few wrong
            labels at the full learning rate cost several points of accuracy.
            Target batches always have `target_size` examples. Defaults to
            `True`.
        shuffle: Boolean. `False` keeps the order of the data on both sides.
            Defaults to `True`.
        steps_per_epoch: Integer, batches of an epoch, for source arrays only.
            They are taken from an endless sequence of passes over the source,
            so that epoch `e` begins with batch `e * steps_per_epoch`. `None`
            makes an epoch one pass. Defaults to `None`.
        shuffle_buffer: Integer, for source datasets only: the buffer size of
            `tf.data.Dataset.shuffle`. If the dataset is sorted, shuffle it
            yourself. Defaults to `10_000`.
        seed: Non-negative integer. `None` draws one now, from NumPy's global
            generator, which `keras.utils.set_random_seed` seeds. Defaults to
            `None`.

    Returns:
        A `tf.data.Dataset` of `((x_s, y_s, ids), (x_t, y_t))`. Where a side
        has sample weights, it is `(x_s, y_s, w_s, ids)` or `(x_t, y_t, w_t)`.
        Ids are int64, of shape `(source_size,)`. Where TensorFlow is missing,
        it is an iterable of them, which `fit` takes as well.

    Raises:
        ValueError: If a size is not a positive integer, if the source makes
            no full batch, if lengths differ, if the target is empty or
            infinite, or if a dataset is batched or its elements are not the
            tuples above.

    Example:

    >>> x, y = np.random.rand(1000, 32), np.random.randint(10, size=1000)
    >>> x_clean, y_clean = x[:50], y[:50]
    >>> dataset = kb.data.source_target_batches(
    ...     (x, y), (x_clean, y_clean), 256, 32
    ... )
    >>> (x_s, y_s, ids), (x_t, y_t) = next(iter(dataset))
    >>> x_s.shape, x_t.shape
    (TensorShape([256, 32]), TensorShape([32, 32]))
    >>> np.array_equal(y[ids], y_s)
    True

    Reference:
        [SOSELETO: A Unified Approach to Transfer Learning and Training with
        Noisy Labels](https://arxiv.org/abs/1805.09622) (Litany and Freedman,
        2018), Algorithm 1.
    """
    check_integer("source_size", source_size, 1)
    check_integer("target_size", target_size, 1)
    seed = fixed_seed(seed)
    sizes = {"size": source_size, "drop_remainder": drop_remainder}
    if is_stream(source):
        check_no_steps(steps_per_epoch)
        check_integer("shuffle_buffer", shuffle_buffer, 1)
        buffer = shuffle_buffer if shuffle else None
        side = _stream_source(source, **sizes, shuffle_buffer=buffer, seed=seed)
    else:
        check_steps(steps_per_epoch)
        side = _array_source(
            source,
            **sizes,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
        )
    draws = TargetDraws(
        *_target_columns(target),
        target_size,
        steps=side.cardinality,
        shuffle=shuffle,
        seed=seed,
    )
    facts = {
        "seed": seed,
        "num_examples": side.num_examples,
        "ids_are_positions": side.ids_are_positions,
    }

    def batch(step, rows):
        return side.batch(step), draws.batch(rows)

    if not is_stream(source):
        return planned_batches(
            lambda epoch: (side.plan(epoch), draws.plan(epoch)),
            [side.shape, (side.cardinality, target_size)],
            batch,
            **facts,
        )
    return each_epoch(
        lambda epoch: tf.data.Dataset.zip(
            (side.steps(epoch), draws.steps(epoch))
        ),
        batch,
        side.cardinality,
        **facts,
    )


def _stream_source(dataset, size, drop_remainder, **kwargs):
    _check_examples("source", dataset, (2, 3, 4))
    dataset = same_shapes(dataset, size)
    _check_enough(_count(dataset, size), size, drop_remainder)
    return StreamSource(dataset, size, drop_remainder=drop_remainder, **kwargs)


def _array_source(data, size, drop_remainder, **kwargs):
    columns, num_examples = _array_columns("source", data)
    _check_enough(num_examples, size, drop_remainder)
    return ArraySource(
        columns, num_examples, size, drop_remainder=drop_remainder, **kwargs
    )


def _array_columns(name, data):
    """`(x, y)` or `(x, y, sample_weight)` as columns, and their length."""
    parts, num_examples = unpack_arrays(name, data)
    return array_columns(*parts, num_examples, ids=False), num_examples


def _target_columns(target):
    """The target set as columns, and its length."""
    if is_stream(target):
        _check_examples("target", target, (2, 3))
        columns, num_examples = _read(same_shapes(target, 1024))
    else:
        columns, num_examples = _array_columns("target", target)
    if num_examples == 0:
        raise _empty("target")
    return columns, num_examples


def _read(dataset):
    """All examples of a dataset as tensors, and their number."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise wrong(
            "argument `target`",
            "a dataset that ends: it is held in memory, and repeated as needed",
            "an infinite dataset",
            "Remove `.repeat()`.",
        )
    # Arrays on a GPU would be copied each step.
    with tf.device("CPU:0"):
        chunks = list(dataset.batch(1024))
        if not chunks:
            return None, 0
        columns = keras.tree.map_structure(
            lambda *leaves: tf.concat(leaves, axis=0), *chunks
        )
    return columns, len(keras.tree.flatten(columns)[0])


def _count(dataset, most):
    """The number of examples of a dataset, counted up to `most` if unknown."""
    known = int(dataset.cardinality())
    if known == tf.data.INFINITE_CARDINALITY:
        return most
    if known == tf.data.UNKNOWN_CARDINALITY:
        count = dataset.take(most).reduce(np.int64(0), lambda n, _: n + 1)
        return int(count)
    return known


def _check_enough(num_examples, size, drop_remainder):
    if num_examples == 0:
        raise _empty("source")
    if drop_remainder and num_examples < size:
        raise wrong_argument(
            "source_size",
            size,
            f"no more than the {num_examples} source examples, which else "
            "make no full batch",
            "Lower it, or pass `drop_remainder=False`.",
        )


def _empty(name):
    return wrong(f"argument `{name}`", "at least one example", "none")


def _check_examples(name, dataset, lengths):
    """Raises a `ValueError` unless elements are single `(x, y, ...)`."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in lengths:
        parts = ["`(x, y)`", "`(x, y, sample_weight)`"]
        parts += ["`(x, y, sample_weight, ids)`"] if 4 in lengths else []
        raise wrong(
            f"argument `{name}`",
            f"a dataset of {' or '.join(parts)}",
            f"element_spec={spec}",
        )
    check_dense(dataset)
    if _is_batched(dataset):
        raise wrong(
            f"argument `{name}`",
            "a dataset of single examples",
            f"element_spec={spec}",
            "These look like batches: apply `.unbatch()` first.",
        )
    if len(spec) == 4 and not _is_scalar_integer(spec[3]):
        raise wrong(
            f"argument `{name}`",
            "one integer id for each example",
            f"ids of {spec[3]}",
        )


def _is_batched(dataset):
    """Whether all first axes are equal, and labels are not one-hot."""
    spec = dataset.element_spec
    shapes = [leaf.shape for leaf in keras.tree.flatten(spec)]
    ranks = [shape.rank for shape in shapes]
    if not all(ranks) or len({shape[0] for shape in shapes}) > 1:
        return False
    if shapes[0][0] is None:
        return True
    integers = isinstance(spec[1], tf.TensorSpec) and spec[1].dtype.is_integer
    if not integers or spec[1].shape.rank != 1 or shapes[0][0] == 1:
        return False
    # One-hot labels and batches have the same shape: look at the values.
    labels = [label.numpy() for _, label, *_ in dataset.take(1)]
    return bool(labels) and class_ids(labels[0][None]) is None


def _is_scalar_integer(spec):
    scalar = isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0
    return scalar and spec.dtype.is_integer
