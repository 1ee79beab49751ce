"""A multilayer perceptron as a schedule."""

import keras
from keras import ops

from keras_bilevel.schedules.network_schedule import NetworkSchedule


@keras.saving.register_keras_serializable("keras_bilevel")
class MLPSchedule(NetworkSchedule):
    """A perceptron with one hidden layer of t / T, one of S2E's rivals.

    ```
    R(t) = 1 + n(t / T) - n(0)
    n(u) = sum_i weights_i tanh(slopes_i u + biases_i)
    ```

    clipped to [0, 1]. The paper names such networks as too large a space to
    search; their form is ours, as is the shift to R(0) = 1, which leaves no
    bias of the output.

    Args:
        weights: Float array of shape `(num_units,)`, of the output. Searched
            in [-1, 1].
        slopes: Float array of shape `(num_units,)`, the hidden layer's
            kernel. Searched in [-5, 5].
        biases: Float array of shape `(num_units,)`, the hidden layer's.
            Searched in [-5, 5].
        epochs: Integer, the number of epochs T.

    Example:

    ```python
    schedule = kb.schedules.MLPSchedule([-0.3], [5.0], [-2.0], epochs=30)
    schedule.plot()
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), section 3.3.3
    """

    ranges = {
        "weights": {"low": -1.0, "high": 1.0, "default": 0.0},
        "slopes": {"low": -5.0, "high": 5.0, "default": 0.0},
        "biases": {"low": -5.0, "high": 5.0, "default": 0.0},
    }

    def __init__(self, weights, slopes, biases, epochs):
        super().__init__(epochs, weights=weights, slopes=slopes, biases=biases)

    def network(self, u, weights, slopes, biases):
        return weights * ops.tanh(slopes * u + biases)
