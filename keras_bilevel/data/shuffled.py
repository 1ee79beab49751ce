"""Plain batches with ids, in an order that a resumed run can repeat."""

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.arrays import array_columns
from keras_bilevel.data.arrays import check_steps
from keras_bilevel.data.arrays import unpack_arrays
from keras_bilevel.data.draws import ArraySource
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.pipelines import planned_batches


def shuffled_batches(
    arrays, batch_size, *, shuffle=True, steps_per_epoch=None, seed=None
):
    """Batches of arrays, with the row numbers as ids.

    Each example is seen at most once an epoch. All batches have the same size,
    so fewer than `batch_size` examples are left over, different ones in each
    epoch if they are shuffled. The order is a pure function of `(seed, epoch)`.
    The first iteration is epoch 0, the next one epoch 1, unless
    `epoch_counters(dataset)` are set otherwise.

    Args:
        arrays: Tuple `(x, y)` or `(x, y, sample_weight)`, each an array or a
            nested dictionary or tuple of arrays of shape `(n, ...)`. They are
            held in memory.
        batch_size: Integer, at most `n`.
        shuffle: Boolean. Defaults to `True`.
        steps_per_epoch: Integer, batches of an epoch, taken from an endless
            sequence of passes. `None` makes an epoch one pass. Defaults to
            `None`.
        seed: Non-negative integer. `None` draws one now, from NumPy's global
            generator, which `keras.utils.set_random_seed` seeds. Defaults to
            `None`.

    Returns:
        A `tf.data.Dataset` of `(x, y, sample_weight, ids)`. Ids are int64, of
        shape `(batch_size,)`. Where TensorFlow is missing, an iterable of them,
        which `fit` takes as well.

    Raises:
        ValueError: If the arrays make no full batch, or lengths differ.

    Example:

    >>> x, y = np.random.rand(1000, 32), np.random.randint(10, size=1000)
    >>> dataset = kb.data.shuffled_batches((x, y), 128)
    >>> x_1, y_1, w_1, ids = next(iter(dataset))
    >>> np.array_equal(y[ids], y_1)
    True
    """
    check_integer("batch_size", batch_size, 1)
    check_steps(steps_per_epoch)
    parts, num_examples = unpack_arrays("arrays", arrays)
    if num_examples < batch_size:
        raise wrong_argument(
            "batch_size",
            batch_size,
            f"at most the number of examples, {num_examples}",
        )
    seed = fixed_seed(seed)
    source = ArraySource(
        array_columns(*parts, num_examples, ids=True)[:3],
        num_examples,
        batch_size,
        drop_remainder=True,
        shuffle=shuffle,
        steps_per_epoch=steps_per_epoch,
        seed=seed,
    )
    return planned_batches(
        lambda epoch: (source.plan(epoch),),
        [source.shape],
        source.batch,
        seed=seed,
        num_examples=num_examples,
    )
