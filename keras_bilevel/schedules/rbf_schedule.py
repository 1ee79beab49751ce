"""A radial basis function network as a schedule."""

import keras
import numpy as np
from keras import ops

from keras_bilevel.schedules.network_schedule import NetworkSchedule


@keras.saving.register_keras_serializable("keras_bilevel")
class RBFSchedule(NetworkSchedule):
    """A radial basis function network of t / T, one of S2E's rivals.

    ```
    R(t) = 1 + n(t / T) - n(0)
    n(u) = sum_i weights_i exp(-(u - centers_i)^2 / (2 widths_i^2))
    ```

    clipped to [0, 1]. The paper names such networks as too large a space to
    search; their form is ours, as is the shift to R(0) = 1.

    Args:
        weights: Float array of shape `(num_units,)`. Searched in [-1, 1].
        centers: Float array of shape `(num_units,)`. Searched in [0, 1].
        widths: Float array of shape `(num_units,)`, greater than 0. Searched
            in [0.05, 1] on a log scale.
        epochs: Integer, the number of epochs T.

    Example:

    ```python
    schedule = kb.schedules.RBFSchedule([-0.5], [0.6], [0.2], epochs=30)
    schedule.plot()
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), section 3.3.3
    """

    ranges = {
        "weights": {"low": -1.0, "high": 1.0, "default": 0.0},
        "centers": {"low": 0.0, "high": 1.0, "default": 0.5},
        "widths": {
            "low": 0.05,
            "high": 1.0,
            "sampling": "log",
            "default": 0.2,
        },
    }

    def __init__(self, weights, centers, widths, epochs):
        super().__init__(
            epochs, weights=weights, centers=centers, widths=widths
        )
        if np.any(self.units["widths"] <= 0):
            raise ValueError(
                "Invalid value for argument `widths`. Expected numbers > 0. "
                f"Received: widths={widths}"
            )

    def network(self, u, weights, centers, widths):
        return weights * ops.exp(-0.5 * ops.square((u - centers) / widths))
