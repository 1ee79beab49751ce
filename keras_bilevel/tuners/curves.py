"""Many schedules at once, in NumPy."""

import numpy as np

from keras_bilevel.schedules.s2e_schedule import NUM_BASES
from keras_bilevel.schedules.s2e_schedule import NUM_PARAMETERS
from keras_bilevel.schedules.s2e_schedule import SCALES
from keras_bilevel.schedules.s2e_schedule import mixture


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
    alpha, beta = np.split(np.asarray(x, "float64"), [NUM_BASES], axis=-1)
    sets = beta.shape[1] // NUM_PARAMETERS
    beta = beta.reshape(len(beta), sets, NUM_PARAMETERS) * SCALES
    beta = np.broadcast_to(beta, (len(beta), NUM_BASES, NUM_PARAMETERS))
    # First the basis, then the parameter; the batch is broadcast with t.
    alpha, parameters = alpha.T[..., None], beta.transpose(1, 2, 0)[..., None]
    t = np.arange(epochs, dtype="float64")
    return np.clip(mixture(t, epochs, alpha, parameters, np), 0, 1)
