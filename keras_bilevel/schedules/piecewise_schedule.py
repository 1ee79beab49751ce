"""A schedule that is given epoch by epoch."""

import keras
from keras import ops

from keras_bilevel.schedules.checks import read_numbers
from keras_bilevel.schedules.schedule import Schedule


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
        self.values = read_numbers("values", values, 0, 1)
        if self.values.ndim != 1 or len(self.values) == 0:
            raise ValueError(
                "Invalid value for argument `values`. Expected shape "
                "(epochs,), a share for each epoch. "
                f"Received: shape {self.values.shape}"
            )
        if self.values[0] != 1:
            raise ValueError(
                "Invalid value for argument `values`. Expected values[0] = 1: "
                "training begins with whole batches. "
                f"Received: values[0]={self.values[0]}"
            )
        self.epochs = len(self.values)

    def share(self, t):
        epoch = ops.clip(ops.floor(t), 0, self.epochs - 1)
        values = ops.convert_to_tensor(self.values, "float32")
        return ops.take(values, ops.cast(epoch, "int32"))

    def get_config(self):
        return {"values": self.values.tolist()}
