"""Random schedules that only fall."""

import keras
import numpy as np
from keras import ops

from keras_bilevel.schedules.checks import read_integer
from keras_bilevel.schedules.hyperparameters import PREFIX
from keras_bilevel.schedules.schedule import Schedule


@keras.saving.register_keras_serializable("keras_bilevel")
class RandomMonotoneSchedule(Schedule):
    """Falls from 1 by random steps.

    R is linear between the epochs 0, T/k, 2T/k, .. T with k `num_knots`: 1 at
    the first, then k uniform random numbers in descending order; the last one
    holds beyond T. With as many knots as epochs all of them would look alike,
    a straight line from 1 to 0. The paper draws random schedules as well
    (Fig. 1(a)), but does not say how.

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
        self.epochs = read_integer("epochs", epochs, 1)
        self.seed = read_integer("seed", seed, 0)
        self.num_knots = read_integer("num_knots", num_knots, 1)
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

        Registers `seed`, an integer: near seeds are no nearer to each other
        than distant ones, so only random search makes sense.

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
