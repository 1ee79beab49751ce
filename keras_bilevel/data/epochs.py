"""The order of an epoch: a pure function of a seed and the epoch's number."""

import dataclasses
import threading
from typing import Any

import numpy as np

from keras_bilevel import keras_private
from keras_bilevel.checks import check_integer

# The use of the random numbers: the first integer of the key of `generator`. So
# no two uses, nor a user's own generator of the same seed, draw the same
# numbers.
SPLIT = 0
PASS = 1
EPOCH = 2
NOISE = 3


def fixed_seed(seed):
    """Checks a seed, or draws one if it is `None`.

    The drawn seed comes from NumPy's global generator, so that
    `keras.utils.set_random_seed` makes it reproducible.

    Args:
        seed: Non-negative integer, or `None` to draw one.

    Returns:
        A non-negative Python integer.
    """
    if seed is None:
        return int(np.random.randint(2**31 - 1))
    return check_integer("seed", seed, 0, "Pass None to draw one.")


def generator(seed, *key):
    """A NumPy generator that depends on `seed` and on the integers `key`."""
    # Not `default_rng((seed, *key))`: NumPy pads that with zeros, so that
    # `(seed,)` and `(seed, 0)` would draw the same numbers.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class EpochCounter:
    """Counts the iterations over a dataset.

    The datasets of `keras_bilevel.data` read it whenever an iteration
    begins, and order their examples by (seed, epoch). A second
    `for batch in dataset` is therefore epoch 1. After `set(e)` the next
    iteration is epoch `e`, so that a resumed run sees the same order as an
    uninterrupted one.

    Example:

    >>> counter = kb.data.EpochCounter()
    >>> counter(), counter()
    (0, 1)
    >>> counter.set(5)
    >>> counter()
    5
    """

    def __init__(self):
        self._next = 0
        # Two branches of one pipeline may begin at the same time.
        self._lock = threading.Lock()

    def __call__(self):
        """Returns the current epoch and advances by one."""
        with self._lock:
            epoch = self._next
            self._next += 1
        return epoch

    def set(self, epoch):
        """Makes `epoch` the next one to begin.

        Args:
            epoch: Integer, from 0.
        """
        with self._lock:
            self._next = int(epoch)


def epoch_counters(dataset):
    """The epoch counters of a dataset.

    They are found even after further `map`, `prefetch`, `zip` and so on.

    Args:
        dataset: A dataset of batches. Anything else has no counters.

    Returns:
        A list of `EpochCounter`, each once; empty where no dataset of this
        package is among the inputs.

    Example:

    ```python
    dataset = kb.data.stratified_batches((x, y), seed=0).map(augment)
    for counter in kb.data.epoch_counters(dataset):
        counter.set(3)  # The next iteration is epoch 3.
    ```
    """
    return [origin.counter for origin in origins(dataset)]


@dataclasses.dataclass(eq=False)
class Origin:
    """What is known of batches that this package has made.

    Their dataset carries it as its attribute `origin`.

    Attributes:
        counter: The `EpochCounter`.
        seed: Integer, the seed of the order.
        num_examples: Integer, ids are in `[0, num_examples)`, or `None` where
            that is not known.
        layout: The `Layout` of super-batches, or `None`.
        ids_are_positions: Boolean, whether ids are counted anew in each epoch
            of a stream.
    """

    counter: EpochCounter
    seed: int
    num_examples: int | None = None
    layout: Any = None
    ids_are_positions: bool = False


def origins(dataset):
    """Returns the `Origin`s of a dataset and of those that it is made of.

    Args:
        dataset: A dataset of batches. Anything else has none.

    Returns:
        List of `Origin`, each once.
    """
    found = []
    for node in _made_here(dataset):
        if node.origin not in found:
            found.append(node.origin)
    return found


def _made_here(dataset):
    """Yields the datasets of this package that a dataset is made of."""
    todo = [dataset]
    while todo:
        node = todo.pop(0)
        if isinstance(getattr(node, "origin", None), Origin):
            yield node
        todo.extend(keras_private.inputs_of(node))


def are_passes(dataset, steps):
    """Returns whether so many steps are known to be a pass over the data.

    Args:
        dataset: A dataset of batches of this package.
        steps: Integer.
    """
    return all(_length(made) == steps for made in _made_here(dataset))


def _length(dataset):
    try:
        return len(dataset)
    except TypeError:  # It is infinite, or unknown.
        return None


def known_size(dataset):
    """Returns the number of examples behind a dataset, `None` if not known."""
    sizes = [origin.num_examples for origin in origins(dataset)]
    return max((size for size in sizes if size is not None), default=None)


def window(one_pass, pass_steps, begin, steps):
    """Returns some steps of an endless sequence of passes over the data.

    Args:
        one_pass: Function from the number of a pass to an array of its
            steps, of shape `(pass_steps, ...)`.
        pass_steps: Integer.
        begin: Integer, the first step.
        steps: Integer, the number of steps.

    Returns:
        Array of shape `(steps, ...)`.
    """
    first, skipped = divmod(begin, pass_steps)
    count = -(-(skipped + steps) // pass_steps)
    passes = [one_pass(first + i) for i in range(count)]
    return np.concatenate(passes)[skipped : skipped + steps]
