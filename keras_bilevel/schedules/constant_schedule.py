"""The same share in all epochs but the first."""

import keras
from keras import ops

from keras_bilevel.schedules.checks import read_share
from keras_bilevel.schedules.schedule import Schedule


@keras.saving.register_keras_serializable("keras_bilevel")
class ConstantSchedule(Schedule):
    """Drops a share `tau` of the batch in every epoch but the first.

    R(t) is 1 for t < 1 and `1 - tau` from then on. An untrained network's
    losses tell nothing, so that R(0) = 1 here as well; `tau=0` keeps all
    examples at all times. At whole epochs this is `CoTeachingSchedule` with
    `t_k=1`.

    Args:
        tau: Float in [0, 1], the share dropped.

    Example:

    >>> schedule = kb.schedules.ConstantSchedule(tau=0.25)
    >>> [float(schedule(t)) for t in (0, 1, 20)]
    [1.0, 0.75, 0.75]
    """

    def __init__(self, tau):
        self.tau = read_share("tau", tau)

    def share(self, t):
        return ops.where(t < 1, ops.ones_like(t), 1.0 - self.tau)

    def get_config(self):
        return {"tau": self.tau}
