"""What a schedule will score, foretold from the schedules tried so far."""

import itertools

import numpy as np
from scipy.linalg import cholesky
from scipy.linalg import solve_triangular

# The root mean square distance of two schedules over which results differ,
# and the share of noise in the results' variance: the likeliest is taken.
_LENGTHS = (0.03, 0.06, 0.12, 0.25, 0.5)
_NOISES = (1e-3, 1e-2, 0.1, 0.5)


class Surrogate:
    """A Gaussian process on curves R(t).

    A trial's numbers x matter only through its schedule, and many x make
    nearly the same one: on R(t), twenty numbers are a few.

    Args:
        curves: Float array of shape `(n, epochs)`, the schedules tried.
        values: Float array of shape `(n,)`, what they scored: finite and not
            all the same.

    Reference:

    - [Rasmussen & Williams, 2006](https://gaussianprocess.org/gpml/),
      Eq. 2.25, 2.26 and 5.8
    """

    def __init__(self, curves, values):
        self._curves = curves
        self._shift, self._scale = np.mean(values), np.std(values)
        values = (values - self._shift) / self._scale
        squares = _squared_distances(curves, curves)
        fits = [
            _Fit(np.exp(-squares / (2 * length**2)), values, length, noise)
            for length, noise in itertools.product(_LENGTHS, _NOISES)
        ]
        self._fit = max(fits, key=lambda fit: fit.likelihood)

    def predict(self, curves):
        """Returns mean and standard deviation of what schedules score.

        Args:
            curves: Float array of shape `(m, epochs)`.

        Returns:
            Two float arrays of shape `(m,)`.
        """
        squares = _squared_distances(curves, self._curves)
        kernel = np.exp(-squares / (2 * self._fit.length**2))
        mean, deviation = self._fit.predict(kernel)
        return self._shift + self._scale * mean, self._scale * deviation


class _Fit:
    """The process with covariance `s^2 ((1 - noise) kernel + noise I)`."""

    def __init__(self, kernel, values, length, noise):
        self.length = length
        self._signal = 1 - noise
        covariance = self._signal * kernel + noise * np.eye(len(values))
        self._root = cholesky(covariance, lower=True)
        self._white = solve_triangular(self._root, values, lower=True)
        self._variance = np.mean(self._white**2)  # The likeliest s^2.
        determinant = 2 * np.sum(np.log(np.diag(self._root)))
        size = len(values)
        self.likelihood = -0.5 * (size * np.log(self._variance) + determinant)

    def predict(self, kernel):
        across = self._signal * kernel.T
        white = solve_triangular(self._root, across, lower=True)
        known = np.sum(white**2, axis=0)
        variance = self._variance * np.maximum(self._signal - known, 0.0)
        return self._white @ white, np.sqrt(variance)


def _squared_distances(a, b):
    """Mean over t of the squared differences, of shape `(len(a), len(b))`."""
    inner = 2 * a @ b.T / a.shape[1]
    squares = np.mean(a**2, axis=1)[:, None] + np.mean(b**2, axis=1) - inner
    return np.maximum(squares, 0.0)
