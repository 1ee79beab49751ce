"""Many schedules at once: Eq. 4 over a batch of x, in NumPy."""

import numpy as np

from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.schedules.s2e_schedule import SCALES
from keras_bilevel.schedules.s2e_schedule import table_1

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
    # Basis first, then parameter; x stays apart from the axis of t.
    parameters = beta.transpose(1, 2, 0)[..., None]
    t = np.arange(epochs, dtype="float64")
    bases = table_1(t, epochs, parameters, np)
    total = sum(a[:, None] * f for a, f in zip(alpha.T, bases))  # Eq. 4
    return np.clip(total, 0, 1)
