"""Predicts what a schedule will score from the schedules tried so far."""

import itertools

import numpy as np
from scipy.linalg import cholesky
from scipy.linalg import solve_triangular

# Length scales, as root mean square distances between schedules, and shares of
# noise in the variance of results: the likeliest pair is taken.
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
            _Fit(squares, values, length, noise)
            for length, noise in itertools.product(_LENGTHS, _NOISES)
        ]
        self._fit = max(fits, key=lambda fit: fit.likelihood)

    def mean(self, curves):
        """Returns what schedules are expected to score.

        Args:
            curves: Float array of shape `(m, epochs)`.

        Returns:
            Float array of shape `(m,)`.
        """
        mean = self._fit.mean(_squared_distances(curves, self._curves))
        return self._shift + self._scale * mean

    def deviation(self, curves, pending):
        """Returns the standard deviation of that prediction.

        A schedule that another worker is trying changes no mean, but it lowers
        the deviation of those near it, as its result will be known soon.

        Args:
            curves: Float array of shape `(m, epochs)`.
            pending: Float array of shape `(p, epochs)`, what is being tried.

        Returns:
            Float array of shape `(m,)`.
        """
        tried = np.concatenate([self._curves, pending])
        deviation = self._fit.deviation(
            _squared_distances(tried, tried), _squared_distances(curves, tried)
        )
        return self._scale * deviation


class _Fit:
    """The process with covariance `s^2 (kernel + noise I)`.

    The kernel is `(1 - noise) exp(-squares / (2 length^2))`.
    """

    def __init__(self, squares, values, length, noise):
        self.length = length
        self.noise = noise
        self._root = self._root_of(squares)
        self._white = solve_triangular(self._root, values, lower=True)
        self._variance = np.mean(self._white**2)  # The likeliest s^2.
        determinant = 2 * np.sum(np.log(np.diag(self._root)))
        size = len(values)
        self.likelihood = -0.5 * (size * np.log(self._variance) + determinant)

    def mean(self, across):
        """Eq. 2.25, from squared distances of shape `(m, n)`."""
        return self._white @ self._whitened(self._root, across)

    def deviation(self, among, across):
        """The root of Eq. 2.26, which needs no values.

        Args:
            among: Squared distances of what was tried, of shape `(t, t)`.
            across: Squared distances to these, of shape `(m, t)`.
        """
        white = self._whitened(self._root_of(among), across)
        known = np.sum(white**2, axis=0)
        left = np.maximum(1 - self.noise - known, 0.0)
        return np.sqrt(self._variance * left)

    def _root_of(self, squares):
        noise = self.noise * np.eye(len(squares))
        return cholesky(self._kernel(squares) + noise, lower=True)

    def _whitened(self, root, across):
        return solve_triangular(root, self._kernel(across).T, lower=True)

    def _kernel(self, squares):
        return (1 - self.noise) * np.exp(-squares / (2 * self.length**2))


def _squared_distances(a, b):
    """Mean over t of the squared differences, of shape `(len(a), len(b))`."""
    inner = 2 * a @ b.T / a.shape[1]
    squares = np.mean(a**2, axis=1)[:, None] + np.mean(b**2, axis=1) - inner
    return np.maximum(squares, 0.0)
