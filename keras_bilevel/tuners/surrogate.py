"""What a schedule will score, foretold from the schedules tried so far."""

import numpy as np

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
            _Fit(np.exp(-squares / (2 * length**2)), values, length)
            for length in _LENGTHS
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
    """The process of one length, with its likeliest noise.

    The covariance is `s^2 ((1 - noise) kernel + noise I)`. One
    eigendecomposition of the kernel serves all noises.
    """

    def __init__(self, kernel, values, length):
        self.length = length
        sizes, self._vectors = np.linalg.eigh(kernel)
        sizes = np.maximum(sizes, 0.0)
        parts = self._vectors.T @ values
        self.likelihood = -np.inf
        for noise in _NOISES:
            covariance = (1 - noise) * sizes + noise
            variance = np.mean(parts**2 / covariance)  # The likeliest s^2.
            likelihood = -0.5 * np.sum(np.log(variance * covariance))
            if likelihood > self.likelihood:
                self.likelihood = likelihood
                self._signal = 1 - noise
                self._covariance, self._variance = covariance, variance
                self._parts = parts / covariance

    def predict(self, kernel):
        parts = self._signal * kernel @ self._vectors
        known = np.sum(parts**2 / self._covariance, axis=1)
        variance = self._variance * np.maximum(self._signal - known, 0.0)
        return parts @ self._parts, np.sqrt(variance)


def _squared_distances(a, b):
    """Mean over t of the squared differences, of shape `(len(a), len(b))`."""
    inner = 2 * a @ b.T / a.shape[1]
    squares = np.mean(a**2, axis=1)[:, None] + np.mean(b**2, axis=1) - inner
    return np.maximum(squares, 0.0)
