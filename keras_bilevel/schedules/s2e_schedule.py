"""S2E's schedule (Yao et al., 2020)."""

import keras
import numpy as np
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_numbers
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.schedules.schedule import PREFIX
from keras_bilevel.schedules.schedule import Schedule

NUM_BASES = 4
NUM_PARAMETERS = 4
SCALES = (1.0, 0.5, 0.5, 2.0)


@keras.saving.register_keras_serializable("keras_bilevel")
class S2ESchedule(Schedule):
    """A convex combination of four curves that fall, then rise slowly.

    ```
    R(t) = sum_i alpha_i f_i(t; beta_i)                             (Eq. 4)

    f_1  = exp(-a_2 t^a_1)      + a_3 (t / T)^a_4                  (Table 1)
    f_2  = exp(-a_2 t^a_1)      + a_3 log(1 + t^a_4) / log(1 + T^a_4)
    f_3  = 1 / (1 + a_2 t)^a_1  + a_3 (t / T)^a_4
    f_4  = 1 / (1 + a_2 t)^a_1  + a_3 log(1 + t^a_4) / log(1 + T^a_4)
    ```

    clipped to [0, 1], with `(a_1, .. a_4) = scales * beta_i`: beta is in
    [0, 1], and the authors' code rescales it by 1, 0.5, 0.5 and 2. In Table 1
    each basis has `a_1, .. a_4` of its own; the authors' code shares one set.

    Every `f_i(0)` is 1 for `a_1, a_4 > 0`. Where one of them is 0, `0^0` is
    taken as 0, its limit from above; so R(0) = 1 for all of the space, and
    R jumps after epoch 0 there.

    Args:
        alpha: Float array of shape `(4,)`, at least 0, with sum 1.
        beta: Float array of shape `(4, 4)`, in [0, 1]; row i belongs to
            basis i. Shape `(4,)` with `shared`.
        epochs: Integer, the number of epochs T.
        shared: Boolean, one set of numbers for all bases. Defaults to
            `False`.
        scales: Floats, greater than 0, the highest `a_1, .. a_4`. Defaults
            to `(1.0, 0.5, 0.5, 2.0)`.

    Attributes:
        num_bases: Integer, 4.
        num_parameters: Integer, 4, how many numbers a basis has.

    Example:

    ```python
    schedule = kb.schedules.S2ESchedule(
        alpha=[0.25, 0.25, 0.25, 0.25],
        beta=[0.6, 0.4, 0.5, 0.5],
        epochs=30,
        shared=True,
    )
    schedule.plot()
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Eq. 4 and Table 1
    """

    num_bases = NUM_BASES
    num_parameters = NUM_PARAMETERS

    def __init__(self, alpha, beta, epochs, shared=False, scales=SCALES):
        self.alpha = _read_alpha(alpha)
        self.beta = _read_beta(beta, shared)
        self.epochs = check_integer("epochs", epochs, 1)
        self.shared = shared
        self.scales = _read_scales(scales)

    def share(self, t):
        shape = (NUM_BASES, NUM_PARAMETERS)
        rows = np.broadcast_to(self.beta * self.scales, shape).tolist()
        return mixture(t, self.epochs, self.alpha.tolist(), rows)

    @classmethod
    def hyperparameter_names(cls, prefix=PREFIX, shared=False):
        """Returns the names of x = (alpha, beta), in that order.

        They are `alpha_<basis>`, then `beta_<basis>_<parameter>` basis by
        basis, or `beta_<parameter>` with `shared`: 20 names or 8, counted
        from 0. All of them have the range [0, 1].

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.
            shared: Boolean. Defaults to `False`.
        """
        parameters = range(NUM_PARAMETERS)
        places = [f"{j}" for j in parameters]
        if not shared:
            places = [f"{i}_{j}" for i in range(NUM_BASES) for j in parameters]
        alphas = [f"{prefix}alpha_{i}" for i in range(NUM_BASES)]
        return alphas + [f"{prefix}beta_{place}" for place in places]

    @classmethod
    def from_hyperparameters(
        cls, hp, epochs, prefix=PREFIX, shared=False, scales=SCALES
    ):
        """Returns the schedule of a trial.

        Registers `hyperparameter_names`. Most tuners do not know that alpha has
        sum 1, so it is divided by its sum; four zeros are taken as four equal
        shares.

        Args:
            hp: `keras_tuner.HyperParameters`.
            epochs: Integer, the number of epochs of a trial.
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.
            shared: Boolean, as in the constructor. Defaults to `False`.
            scales: Floats, as in the constructor.
        """
        names = cls.hyperparameter_names(prefix, shared)
        equal = 1 / NUM_BASES
        defaults = [equal] * NUM_BASES + [0.5] * (len(names) - NUM_BASES)
        x = [
            hp.Float(name, 0.0, 1.0, default=default)
            for name, default in zip(names, defaults)
        ]
        alpha, beta = x[:NUM_BASES], x[NUM_BASES:]
        total = sum(alpha)
        alpha = [a / total if total > 0 else equal for a in alpha]
        beta = np.reshape(beta, (-1,) if shared else (NUM_BASES, -1))
        return cls(alpha, beta, epochs, shared, scales)

    def to_hyperparameters(self, prefix=PREFIX):
        """Returns this schedule as a search would hold it.

        `epochs` and `scales` are not searched: pass them to
        `from_hyperparameters`.

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.

        Returns:
            Dict from the names of hyperparameters to their values.
        """
        names = self.hyperparameter_names(prefix, self.shared)
        values = np.concatenate([self.alpha, self.beta.ravel()])
        return dict(zip(names, values.tolist()))

    def get_config(self):
        return {
            "alpha": self.alpha.tolist(),
            "beta": self.beta.tolist(),
            "epochs": self.epochs,
            "shared": self.shared,
            "scales": self.scales.tolist(),
        }


def mixture(t, epochs, alpha, parameters, ops=ops):
    """Returns R(t) before it is clipped, for schedules and for the search.

    Args:
        t: Epochs from 0 on, a tensor, or with `ops=numpy` an array.
        epochs: Integer, T.
        alpha: The weights of the four bases: numbers, or with `ops=numpy`
            arrays that are broadcast with `t`.
        parameters: Four rows of `(a_1, .. a_4)`, as `alpha`. Row i belongs to
            basis i.
        ops: `keras.ops` or `numpy`. Defaults to `keras.ops`.

    Returns:
        Tensor or array of the shape of `t` and the numbers.
    """

    def power(base, exponent):
        # 0^0 is 1, which would break R(0) = 1.
        return ops.where(
            base > 0, ops.power(base, exponent), ops.zeros_like(base)
        )

    def exponential_fall(a_1, a_2):
        return ops.exp(-a_2 * power(t, a_1))

    def hyperbolic_fall(a_1, a_2):
        return ops.power(1.0 + a_2 * t, -a_1)

    def power_rise(a_3, a_4):
        return a_3 * power(t / epochs, a_4)

    def log_rise(a_3, a_4):
        return a_3 * ops.log1p(power(t, a_4)) / ops.log1p(float(epochs) ** a_4)

    pairs = (
        (exponential_fall, power_rise),
        (exponential_fall, log_rise),
        (hyperbolic_fall, power_rise),
        (hyperbolic_fall, log_rise),
    )
    bases = [
        fall(a_1, a_2) + rise(a_3, a_4)  # Table 1
        for (fall, rise), (a_1, a_2, a_3, a_4) in zip(pairs, parameters)
    ]
    return sum(a * f for a, f in zip(alpha, bases))  # Eq. 4


def _read_alpha(alpha):
    alpha = np.array(alpha, "float64")
    is_mixture = alpha.shape == (NUM_BASES,) and np.all(alpha >= 0)
    if not is_mixture or not abs(np.sum(alpha) - 1) <= 1e-6:
        raise wrong_argument(
            "alpha",
            alpha.tolist(),
            "4 numbers >= 0 with sum 1, one for each basis",
            "Divide them by their sum.",
        )
    return alpha


def _read_beta(beta, shared):
    beta = check_numbers("beta", beta, 0, 1)
    shape = (NUM_PARAMETERS,) if shared else (NUM_BASES, NUM_PARAMETERS)
    if beta.shape != shape:
        raise wrong(
            "argument `beta`",
            f"shape {shape} with shared={shared}",
            f"shape {beta.shape}",
            "One set of numbers for all bases needs `shared=True`, one for "
            "each basis `shared=False`.",
        )
    return beta


def _read_scales(scales):
    scales = check_numbers("scales", scales)
    if scales.shape != (NUM_PARAMETERS,) or np.any(scales <= 0):
        raise wrong_argument(
            "scales", scales.tolist(), "4 numbers > 0, the highest a_1, .. a_4"
        )
    return scales
