"""The spaces of schedules that S2E's is compared with."""

import keras
import numpy as np
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_numbers
from keras_bilevel.checks import wrong_argument
from keras_bilevel.schedules.schedule import PREFIX
from keras_bilevel.schedules.schedule import Schedule


class NetworkSchedule(Schedule):
    """A sum over hidden units of t / T, shifted so that R(0) = 1.

    ```
    R(t) = 1 + n(t / T) - n(0)
    ```

    A subclass implements n as `network`, and lists in `ranges` the parameters
    of a hidden unit: their (plural) names with the arguments of `hp.Float`.
    """

    ranges = {}

    def __init__(self, epochs, **units):
        self.epochs = check_integer("epochs", epochs, 1)
        self.units = {k: check_numbers(k, v) for k, v in units.items()}
        shapes = {k: v.shape for k, v in self.units.items()}
        first = next(iter(shapes.values()))
        if len(first) != 1 or first[0] == 0 or len(set(shapes.values())) > 1:
            names = ", ".join(f"`{name}`" for name in shapes)
            raise ValueError(
                f"Invalid values for arguments {names}. Expected the same "
                "shape (num_units,) for each, with at least one unit. "
                f"Received: shapes {shapes}"
            )

    def share(self, t):
        units = {
            name: ops.convert_to_tensor(values, "float32")
            for name, values in self.units.items()
        }
        u = ops.expand_dims(t / self.epochs, -1)
        start = self.network(ops.zeros_like(u), **units)
        return 1.0 + ops.sum(self.network(u, **units) - start, axis=-1)

    def network(self, u, **units):
        """Returns what each unit adds.

        Args:
            u: Float32 tensor of shape `(d0, .. dN, 1)`, t / T.
            **units: Float32 tensors of shape `(num_units,)`.

        Returns:
            Float32 tensor of shape `(d0, .. dN, num_units)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `network(u, **units)`."
        )

    @classmethod
    def from_hyperparameters(cls, hp, epochs, prefix=PREFIX, num_units=5):
        """Returns the schedule of a trial.

        Registers the numbers of every unit, such as `weights_0`, in the
        ranges that the class documents.

        Args:
            hp: `keras_tuner.HyperParameters`.
            epochs: Integer, the number of epochs of a trial.
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.
            num_units: Integer. Defaults to `5`.
        """
        num_units = check_integer("num_units", num_units, 1)
        units = {}
        for name, options in cls.ranges.items():
            names = [f"{prefix}{name}_{i}" for i in range(num_units)]
            units[name] = [hp.Float(name, **options) for name in names]
        return cls(epochs=epochs, **units)

    def to_hyperparameters(self, prefix=PREFIX):
        """Returns this schedule as a search would hold it.

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.

        Returns:
            Dict from the names of hyperparameters to their values.
        """
        return {
            f"{prefix}{name}_{i}": value
            for name, values in self.units.items()
            for i, value in enumerate(values.tolist())
        }

    def get_config(self):
        units = {name: values.tolist() for name, values in self.units.items()}
        return units | {"epochs": self.epochs}


@keras.saving.register_keras_serializable("keras_bilevel")
class MLPSchedule(NetworkSchedule):
    """A perceptron with one hidden layer of t / T, one of S2E's rivals.

    ```
    R(t) = 1 + n(t / T) - n(0)
    n(u) = sum_i weights_i tanh(slopes_i u + biases_i)
    ```

    clipped to [0, 1]. The paper mentions such networks as a search space that
    is too large. Their form is ours, as is the shift to R(0) = 1, which cancels
    a bias of the output.

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
        "weights": {"min_value": -1.0, "max_value": 1.0, "default": 0.0},
        "slopes": {"min_value": -5.0, "max_value": 5.0, "default": 0.0},
        "biases": {"min_value": -5.0, "max_value": 5.0, "default": 0.0},
    }

    def __init__(self, weights, slopes, biases, epochs):
        super().__init__(epochs, weights=weights, slopes=slopes, biases=biases)

    def network(self, u, weights, slopes, biases):
        return weights * ops.tanh(slopes * u + biases)


@keras.saving.register_keras_serializable("keras_bilevel")
class RBFSchedule(NetworkSchedule):
    """A radial basis function network of t / T, one of S2E's rivals.

    ```
    R(t) = 1 + n(t / T) - n(0)
    n(u) = sum_i weights_i exp(-(u - centers_i)^2 / (2 widths_i^2))
    ```

    clipped to [0, 1]. The paper mentions such networks as a search space that
    is too large. Their form is ours, as is the shift to R(0) = 1.

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
        "weights": {"min_value": -1.0, "max_value": 1.0, "default": 0.0},
        "centers": {"min_value": 0.0, "max_value": 1.0, "default": 0.5},
        "widths": {
            "min_value": 0.05,
            "max_value": 1.0,
            "sampling": "log",
            "default": 0.2,
        },
    }

    def __init__(self, weights, centers, widths, epochs):
        super().__init__(
            epochs, weights=weights, centers=centers, widths=widths
        )
        if np.any(self.units["widths"] <= 0):
            raise wrong_argument("widths", widths, "numbers > 0")

    def network(self, u, weights, centers, widths):
        return weights * ops.exp(-0.5 * ops.square((u - centers) / widths))


@keras.saving.register_keras_serializable("keras_bilevel")
class RandomMonotoneSchedule(Schedule):
    """Falls from 1 by random steps.

    R is piecewise linear, with knots at the epochs 0, T/k, 2T/k, .. T for k
    `num_knots`: 1 at the first, then k uniform random numbers in descending
    order. The last one holds beyond T. With many knots all schedules would be
    nearly the same straight line from 1 to 0. The paper draws random schedules
    as well (Fig. 1(a)), but does not say how.

    Args:
        epochs: Integer, the number of epochs T.
        seed: Integer, at least 0, which schedule.
        num_knots: Integer, k. Defaults to `4`.

    Attributes:
        levels: Float array of shape `(num_knots + 1,)`, R at the knots.

    Example:

    ```python
    kb.schedules.RandomMonotoneSchedule(epochs=30, seed=1).plot()
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 1(a)
    """

    def __init__(self, epochs, seed, num_knots=4):
        self.epochs = check_integer("epochs", epochs, 1)
        self.seed = check_integer("seed", seed, 0)
        self.num_knots = check_integer("num_knots", num_knots, 1)
        draws = np.random.default_rng(self.seed).random(self.num_knots)
        self.levels = np.concatenate([[1.0], np.sort(draws)[::-1]])

    def share(self, t):
        place = t * (self.num_knots / self.epochs)
        # How much of each linear piece lies behind t.
        passed = [ops.clip(place - i, 0, 1) for i in range(self.num_knots)]
        changes = np.diff(self.levels).tolist()
        return 1.0 + sum(d * p for d, p in zip(changes, passed))

    @classmethod
    def from_hyperparameters(cls, hp, epochs, prefix=PREFIX, num_knots=4):
        """Returns the schedule of a trial.

        Registers `seed`, an integer. Neighbouring seeds give unrelated
        schedules, so only random search makes sense.

        Args:
            hp: `keras_tuner.HyperParameters`.
            epochs: Integer, the number of epochs of a trial.
            prefix: String, what the name begins with. Defaults to
                `"schedule_"`.
            num_knots: Integer. Defaults to `4`.
        """
        seed = hp.Int(f"{prefix}seed", 0, 2**31 - 1)
        return cls(epochs, seed, num_knots)

    def to_hyperparameters(self, prefix=PREFIX):
        """Returns this schedule as a search would hold it.

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.

        Returns:
            Dict from the names of hyperparameters to their values.
        """
        return {f"{prefix}seed": self.seed}

    def get_config(self):
        return {
            "epochs": self.epochs,
            "seed": self.seed,
            "num_knots": self.num_knots,
        }
