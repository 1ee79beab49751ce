"""Many schedules at once: Eq. 4 over a batch of x, in NumPy."""

import numpy as np

from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.schedules.s2e_schedule import SCALES

_BASES = S2ESchedule.num_bases
_PARAMETERS = S2ESchedule.num_parameters


def curves(x, epochs):
    """Returns R(t) for t = 0, .. epochs - 1.

    What `S2ESchedule` computes, with its default scales; a schedule at a
    time would take seconds for the candidates of a trial.

    Args:
        x: Float array of shape `(batch_size, 20)`, or `(batch_size, 8)` where
            all bases share one set of numbers.
        epochs: Integer, T.

    Returns:
        Float array of shape `(batch_size, epochs)`.
    """
    alpha, beta = np.split(np.asarray(x, "float64"), [_BASES], axis=-1)
    sets = beta.shape[1] // _PARAMETERS
    beta = beta.reshape(len(beta), sets, _PARAMETERS) * SCALES
    beta = np.broadcast_to(beta, (len(beta), _BASES, _PARAMETERS))
    t = np.arange(epochs, dtype="float64")
    bases = [_basis(i, t, epochs, beta[:, i]) for i in range(_BASES)]
    total = sum(alpha[:, i, None] * basis for i, basis in enumerate(bases))
    return np.clip(total, 0, 1)


def _basis(i, t, epochs, numbers):
    """The i-th line of Table 1."""
    a_1, a_2, a_3, a_4 = numbers.T[..., None]
    if i < 2:
        fall = np.exp(-a_2 * _power(t, a_1))
    else:
        fall = (1 + a_2 * t) ** -a_1
    if i % 2 == 0:
        rise = _power(t / epochs, a_4)
    else:
        rise = np.log1p(_power(t, a_4)) / np.log1p(epochs**a_4)
    return fall + a_3 * rise


def _power(t, exponent):
    # As in `S2ESchedule`: R(0) = 1 needs 0^0 = 0.
    return np.where(t > 0, t**exponent, 0.0)
