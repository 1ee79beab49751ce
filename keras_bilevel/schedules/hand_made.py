"""Schedules that are set by hand."""

import keras
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_numbers
from keras_bilevel.checks import check_positive
from keras_bilevel.checks import check_share
from keras_bilevel.checks import wrong
from keras_bilevel.schedules.schedule import PREFIX
from keras_bilevel.schedules.schedule import Schedule


@keras.saving.register_keras_serializable("keras_bilevel")
class CoTeachingSchedule(Schedule):
    """Drops more and more of the batch, up to a share `tau` of it.

    ```
    R(t) = 1 - tau * min((t / t_k)^c, 1)      (Eq. 1)
    ```

    Args:
        tau: Float in [0, 1], the share dropped from epoch `t_k` on: the share
            of wrong labels, where that is known; else see `suggest_tau`.
        c: Float, greater than 0, the shape of the fall: linear for 1, slower at
            first for more. Defaults to `1`.
        t_k: Float, greater than 0, the epoch at which the fall ends.
            Defaults to `10`.

    Example:

    >>> schedule = kb.schedules.CoTeachingSchedule(tau=0.5, t_k=10)
    >>> [float(schedule(t)) for t in (0, 5, 10, 20)]
    [1.0, 0.75, 0.5, 0.5]

    Reference:

    - [Han et al., 2018](https://arxiv.org/abs/1804.06872)
    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Eq. 1
    """

    def __init__(self, tau, c=1, t_k=10):
        self.tau = check_share("tau", tau)
        self.c = check_positive("c", c)
        self.t_k = check_positive("t_k", t_k)

    def share(self, t):
        fall = ops.minimum(ops.power(t / self.t_k, self.c), 1.0)
        return 1.0 - self.tau * fall  # Eq. 1

    @classmethod
    def from_hyperparameters(cls, hp, epochs, prefix=PREFIX):
        """Returns the schedule of a trial: the space S2E is compared with.

        Registers `tau` in [0, 1], `c` in [0.25, 4] on a log scale and `t_k`
        in [1, epochs].

        Args:
            hp: `keras_tuner.HyperParameters`.
            epochs: Integer, the number of epochs of a trial.
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.
        """
        epochs = check_integer("epochs", epochs, 1)
        return cls(
            tau=hp.Float(f"{prefix}tau", 0.0, 1.0, default=0.5),
            c=hp.Float(f"{prefix}c", 0.25, 4.0, sampling="log", default=1.0),
            t_k=hp.Float(
                f"{prefix}t_k", 1.0, epochs, default=float(min(10, epochs))
            ),
        )

    def to_hyperparameters(self, prefix=PREFIX):
        """Returns this schedule as a search would hold it.

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.

        Returns:
            Dict from the names of hyperparameters to their values.
        """
        return {f"{prefix}{k}": v for k, v in self.get_config().items()}

    def get_config(self):
        return {"tau": self.tau, "c": self.c, "t_k": self.t_k}


@keras.saving.register_keras_serializable("keras_bilevel")
class ConstantSchedule(Schedule):
    """Drops a share `tau` of the batch in every epoch but the first.

    R(t) is 1 for t < 1, as the losses of an untrained network tell nothing, and
    `1 - tau` from then on; `tau=0` keeps all examples in all epochs. At whole
    epochs this is `CoTeachingSchedule` with `t_k=1`.

    Args:
        tau: Float in [0, 1], the share dropped.

    Example:

    >>> schedule = kb.schedules.ConstantSchedule(tau=0.25)
    >>> [float(schedule(t)) for t in (0, 1, 20)]
    [1.0, 0.75, 0.75]
    """

    def __init__(self, tau):
        self.tau = check_share("tau", tau)

    def share(self, t):
        return ops.where(t < 1, ops.ones_like(t), 1.0 - self.tau)

    def get_config(self):
        return {"tau": self.tau}


@keras.saving.register_keras_serializable("keras_bilevel")
class PiecewiseSchedule(Schedule):
    """Keeps the share `values[t]` in epoch t.

    The value of an epoch holds until the next one begins, the last value
    beyond the end; but `fit` demands a value for each of its epochs.

    Args:
        values: Float array of shape `(epochs,)`, in [0, 1]; the first is 1.

    Example:

    >>> schedule = kb.schedules.PiecewiseSchedule([1.0, 0.75, 0.5, 0.75])
    >>> [float(schedule(t)) for t in (0, 1.5, 2)]
    [1.0, 0.75, 0.5]
    """

    def __init__(self, values):
        self.values = check_numbers("values", values, 0, 1)
        if self.values.ndim != 1 or len(self.values) == 0:
            raise wrong(
                "argument `values`",
                "shape (epochs,), a share for each epoch",
                f"shape {self.values.shape}",
            )
        if self.values[0] != 1:
            raise wrong(
                "argument `values`",
                "values[0] = 1: training begins with whole batches",
                f"values[0]={self.values[0]}",
            )
        self.epochs = len(self.values)

    def share(self, t):
        epoch = ops.clip(ops.floor(t), 0, self.epochs - 1)
        values = ops.convert_to_tensor(self.values, "float32")
        return ops.take(values, ops.cast(epoch, "int32"))

    def get_config(self):
        return {"values": self.values.tolist()}
