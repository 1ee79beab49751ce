"""Random numbers as a pure function of a seed and a few integers."""

import numbers

import numpy as np

# What the numbers are for: the first of the integers that `generator` takes,
# so that no two uses (nor a user's own generator of the same seed) draw alike.
SPLIT = 0
PASS = 1
EPOCH = 2
NOISE = 3


def fixed_seed(seed):
    """Checks a seed, or draws one where the user left it open.

    The drawn seed comes from NumPy's global generator, so that
    `keras.utils.set_random_seed` makes it reproducible.

    Args:
        seed: Non-negative integer, or `None` to draw one.

    Returns:
        A non-negative Python integer.
    """
    if seed is None:
        return int(np.random.randint(2**31 - 1))
    is_integer = isinstance(seed, numbers.Integral)
    if not is_integer or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            "Invalid value for argument `seed`. Expected a non-negative "
            f"integer, or None to draw one. Received: seed={seed}"
        )
    return int(seed)


def generator(seed, *key):
    """A NumPy generator that depends on `seed` and on the integers `key`."""
    # Not `default_rng((seed, *key))`: NumPy pads that with zeros, so that
    # `(seed,)` and `(seed, 0)` would draw the same numbers.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
