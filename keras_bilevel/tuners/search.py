"""Algorithm 2 of S2E (Yao et al., 2020), on plain lists of results."""

import dataclasses

import numpy as np

from keras_bilevel.checks import check_choice
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_positive
from keras_bilevel.data.epochs import generator
from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.tuners.curves import curves
from keras_bilevel.tuners.distribution import Distribution
from keras_bilevel.tuners.surrogate import Surrogate
from keras_bilevel.tuners.updates import STEPS
from keras_bilevel.tuners.updates import next_theta

# What random numbers are for; see `data/epochs.py`, which has those below.
_TRIAL = 10
_ROUND = 11
OTHERS = 12  # Hyperparameters that are none of a schedule's.


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial that has ended.

    Attributes:
        x: Float array of shape `(n,)`.
        value: Float, f(x), to be minimized; NaN if the trial failed.
        round: Integer, which of the thetas it was drawn with.
    """

    x: np.ndarray
    value: float
    round: int


class Search:
    """What to try next, and theta after each round.

    It keeps nothing but `thetas`; all random numbers are a function of the
    seed and of the number of the trial or round. So the same results lead to
    the same search, however often it was interrupted.

    Args:
        samples_per_round: Integer, K.
        update: String, one of `STEPS`.
        step: Float, rho.
        candidates: Integer. 1 is the paper's algorithm; more are drawn for
            each trial, and a surrogate chooses.
        shared: Boolean, as in `S2ESchedule`.
        epochs: Integer, over how many epochs the surrogate compares
            schedules.
        seed: Integer.

    Attributes:
        thetas: List of float arrays of shape `(size,)`, one for each round.
        theta: The last of them.
    """

    def __init__(
        self, samples_per_round, update, step, candidates, shared, epochs, seed
    ):
        self.samples_per_round = check_integer(
            "samples_per_round", samples_per_round, 2
        )
        check_choice("update", update, tuple(STEPS))
        self.update = update
        self.step = check_positive("step", step)
        self.candidates = check_integer("candidates", candidates, 1)
        self.epochs = check_integer("epochs", epochs, 1)
        self.seed = seed
        num_alphas = S2ESchedule.num_bases
        names = S2ESchedule.hyperparameter_names(shared=shared)
        self.distribution = Distribution(num_alphas, len(names) - num_alphas)
        self.thetas = [np.ones(self.distribution.size)]  # Step 1: uniform.

    @property
    def theta(self):
        return self.thetas[-1]

    def draw(self, number, results, pending=()):
        """Returns x for the trial of that number.

        Args:
            number: Integer, how many trials were drawn before.
            results: List of `Result`, all trials that have ended.
            pending: List of float arrays of shape `(n,)`, the x of trials
                that have not.
        """
        rng = generator(self.seed, _TRIAL, number)
        surrogate = self._surrogate(results)
        if surrogate is None:
            return self.distribution.sample(self.theta, rng, 1)[0]
        x = self.distribution.sample(self.theta, rng, self.candidates)
        tried = np.reshape(pending, (-1, x.shape[1]))
        shares = curves(x, self.epochs)
        mean = surrogate.mean(shares)
        deviation = surrogate.deviation(shares, curves(tried, self.epochs))
        # The lower confidence bound: of two equal means, try the less certain.
        return x[np.argmin(mean - deviation)]

    def advance(self, results):
        """Closes every round whose K trials have ended: steps 7 and 8.

        Args:
            results: List of `Result`, in the order in which they ended.
        """
        while len(results) >= self.samples_per_round * len(self.thetas):
            end = self.samples_per_round * len(self.thetas)
            self.thetas.append(self._next_theta(results[:end]))

    def _next_theta(self, results):
        theta = self.theta
        if self.candidates == 1:
            sample = self._round(results[-self.samples_per_round :])
        else:
            sample = self._from_surrogate(results)
        if sample is None:
            return theta
        return next_theta(
            self.distribution, theta, *sample, self.update, self.step
        )

    def _round(self, results):
        """x, f(x) and weights of a round of trials.

        With several workers some were drawn with an earlier theta. Their
        importance weight is p_theta over the density of the mixture that the
        trials were drawn from, which is 1 where all are of this round.
        """
        results = _finite(results)
        if not results:
            return None
        x, values = _arrays(results)
        thetas = [self.thetas[result.round] for result in results]
        densities = [self.distribution.log_density(x, t) for t in thetas]
        mixture = np.logaddexp.reduce(densities, axis=0) - np.log(len(thetas))
        own = self.distribution.log_density(x, self.theta)
        return x, values, np.exp(own - mixture)

    def _from_surrogate(self, results):
        """x drawn from p_theta, what the surrogate expects, and weights."""
        surrogate = self._surrogate(results)
        if surrogate is None:
            return None
        rng = generator(self.seed, _ROUND, len(self.thetas))
        x = self.distribution.sample(self.theta, rng, self.candidates)
        mean = surrogate.mean(curves(x, self.epochs))
        return x, mean, np.ones(len(x))

    def _surrogate(self, results):
        """The surrogate, or `None` before two rounds have ended."""
        results = _finite(results)
        if self.candidates == 1 or len(results) < 2 * self.samples_per_round:
            return None
        x, values = _arrays(results)
        if not np.std(values) > 0:
            return None
        return Surrogate(curves(x, self.epochs), values)


def _finite(results):
    return [result for result in results if np.isfinite(result.value)]


def _arrays(results):
    x = np.stack([result.x for result in results])
    return x, np.array([result.value for result in results])
