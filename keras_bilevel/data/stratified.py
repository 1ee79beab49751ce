"""Stratified super-batches: every shard has the same label counts."""

import numbers

from keras_bilevel.checks import check_choice
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.arrays import array_columns
from keras_bilevel.data.arrays import check_no_steps
from keras_bilevel.data.arrays import check_steps
from keras_bilevel.data.arrays import unpack_arrays
from keras_bilevel.data.epochs import Origin
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.labels import array_groups
from keras_bilevel.data.pipelines import gather_rows
from keras_bilevel.data.pipelines import is_stream
from keras_bilevel.data.pipelines import planned_batches
from keras_bilevel.data.streams import count_positions
from keras_bilevel.data.streams import stream_batches
from keras_bilevel.data.super_batches import RARE
from keras_bilevel.data.super_batches import EpochPlan
from keras_bilevel.data.super_batches import Layout
from keras_bilevel.data.super_batches import make_pools


def stratified_batches(
    data,
    num_shards=8,
    shard_size=16,
    *,
    num_validation_shards=1,
    num_replicas=1,
    validation_ratio=0.0,
    stratify_by="label",
    rare="repeat",
    shuffle=True,
    ids=False,
    steps_per_epoch=None,
    shuffle_buffer=10_000,
    seed=None,
):
    """Super-batches of shards that all have the same label counts.

    Deep Bilevel Learning compares the gradients of several mini-batches
    (shards). This is only meaningful if all shards have the same label counts.
    So in each epoch every class is permuted and cut into tuples of one example
    per shard. The tuples are shuffled, and `shard_size` of them make a
    super-batch. Its shard `j` consists of the `j`-th members of these tuples.

    An example is seen at most once an epoch, unless `rare` repeats it, or
    `validation_ratio` keeps it for validation. Fewer than
    `num_replicas * num_shards` examples of each class, and fewer than
    `shard_size` tuples at the end, are left over. They differ from epoch to
    epoch.

    A super-batch holds shard after shard, the validation shards first. With
    several replicas, it holds the first replica's shards, then those of the
    second and so on. This is how `tf.distribute` splits a global batch.

    The order is a pure function of `(seed, epoch)`, given a dataset that
    itself comes in a fixed order. The first iteration is epoch 0, the next
    one epoch 1, unless `epoch_counters(dataset)` are set otherwise.

    Args:
        data: Arrays or a dataset. Arrays: a tuple `(x, y)` or
            `(x, y, sample_weight)`, each an array or a nested dictionary or
            tuple of arrays of shape `(n, ...)`. They are held in memory.
            Dataset: a `tf.data.Dataset` of single examples `(x, y)`,
            `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`. The number
            of its super-batches is only known at its end. Keras warns of this
            in `fit`, unless `tf.data.experimental.assert_cardinality` sets the
            number.
        num_shards: Integer, at least 2, shards per replica. Defaults to `8`.
        shard_size: Integer, examples per shard. Defaults to `16`.
        num_validation_shards: Integer, how many of a replica's shards
            validate. Defaults to `1`.
        num_replicas: Integer, how many replicas a super-batch serves.
            Defaults to `1`.
        validation_ratio: Float in `[0, 1)`, the share of each class that is
            used in validation shards only. These examples are drawn once, from
            `seed`: at least one and not all examples of a class. An epoch is a
            pass over the other examples, while the validation examples repeat
            in cycles. A class of a single example is rare, and used in both
            roles. A dataset must come in a fixed order: it is read twice
            immediately, to count the classes and to hold the validation
            examples in memory. `0` lets every example serve in both roles.
            Defaults to `0`.
        stratify_by: What defines the groups, by default the classes. `"label"`:
            `y`, which must be integers or one-hot. A function: maps one
            example's `(x, y)`, as tensors, to an integer group; tf.data traces
            it. (Where TensorFlow is missing, they are arrays.) An integer array
            of shape `(n,)`: the groups, for arrays only. `None`: all examples
            are of one group. Defaults to `"label"`.
        rare: String, how to treat a group with fewer training examples than one
            tuple needs. `"repeat"` makes one tuple per epoch by repeating
            examples, and warns once. `"drop"` leaves the group out, `"error"`
            raises. In a dataset, a group turns out to be rare only at the end
            of an epoch, so its tuple comes there. Defaults to `"repeat"`.
        shuffle: Boolean. `False` keeps the order of the data within groups.
            Tuples then come in the order in which they are complete; a rare
            group of a dataset comes at the end. Defaults to `True`.
        ids: Boolean, whether elements are `(x, y, sample_weight, ids)`. Ids are
            int64: row numbers of arrays, or positions in a dataset, which then
            needs a fixed order. Sample weights are ones if none were given. A
            dataset with ids of its own always keeps them. Defaults to `False`.
        steps_per_epoch: Integer, super-batches of an epoch, for arrays only.
            They are taken from an endless sequence of passes over the data,
            so that epoch `e` begins with super-batch `e * steps_per_epoch`.
            `None` makes an epoch one pass. Defaults to `None`.
        shuffle_buffer: Integer, for datasets only: the size of a chunk. Each
            chunk is read, shuffled and cut into tuples on its own, and is at
            least a super-batch. The examples that chunks leave over make
            further super-batches. Since an example is only mixed with those
            near it, shuffle the dataset yourself if it is sorted. Memory is
            needed for about four chunks. If `num_replicas * num_shards` times
            the number of groups is larger than a chunk, more examples are left
            over and feeding slows down. Defaults to `10_000`.
        seed: Non-negative integer. `None` draws one now, from NumPy's global
            generator, which `keras.utils.set_random_seed` seeds. Defaults to
            `None`.

    Returns:
        A `tf.data.Dataset` of super-batches with the structure of `data` and
        leaves of shape `(num_replicas * num_shards * shard_size, ...)`. Where
        TensorFlow is missing, an iterable of them, which `fit` takes as well.

    Raises:
        ValueError: If the sizes leave no shard to train on or no full
            super-batch, if the labels are neither integers nor one-hot, or
            if a dataset is batched.

    Example:

    >>> x = np.random.rand(1000, 32)
    >>> y = np.random.randint(10, size=1000)
    >>> dataset = kb.data.stratified_batches(
    ...     (x, y), num_shards=4, shard_size=20
    ... )
    >>> batch_x, batch_y = next(iter(dataset))
    >>> batch_x.shape
    TensorShape([80, 32])
    >>> validation, *training = np.split(batch_y, 4)
    >>> all(np.array_equal(validation, shard) for shard in training)
    True

    Reference:
        [Deep Bilevel Learning](https://arxiv.org/abs/1809.01465)
        (Jenni and Favaro, 2018), section 3 and row (c) of Table 1; for
        `validation_ratio` Fig. 2, first row.
    """
    _check_ratio(validation_ratio)
    check_choice("rare", rare, RARE)
    layout = Layout(
        num_shards,
        shard_size,
        num_validation_shards,
        num_replicas,
        separate_validation=validation_ratio > 0,
    )
    seed = fixed_seed(seed)
    if is_stream(data):
        check_no_steps(steps_per_epoch)
        check_integer("shuffle_buffer", shuffle_buffer, 1)
        num_examples = count_positions(data)
        dataset, counter = stream_batches(
            data,
            layout,
            validation_ratio=validation_ratio,
            stratify_by=stratify_by,
            rare=rare,
            shuffle=shuffle,
            shuffle_buffer=shuffle_buffer,
            ids=ids,
            seed=seed,
        )
        dataset.origin = Origin(counter, seed, num_examples, layout)
        return dataset
    check_steps(steps_per_epoch)
    (x, y, sample_weight), num_examples = unpack_arrays("data", data)
    groups = array_groups(x, y, num_examples, stratify_by)
    pools = make_pools(groups, layout, validation_ratio, rare, seed)
    plan = EpochPlan(pools, layout, shuffle, seed, steps_per_epoch)
    columns = array_columns(x, y, sample_weight, num_examples, ids)
    return planned_batches(
        lambda epoch: (plan(int(epoch)),),
        [(plan.steps, layout.batch_size)],
        lambda rows: gather_rows(columns, rows),
        seed=seed,
        num_examples=num_examples,
        layout=layout,
    )


def _check_ratio(ratio):
    if not isinstance(ratio, numbers.Real) or not 0 <= ratio < 1:
        raise wrong_argument("validation_ratio", ratio, "a float in [0, 1)")
