"""The distribution p_theta over S2E's space (Yao et al., 2020)."""

import numpy as np
from scipy.special import digamma
from scipy.special import gammaln
from scipy.special import polygamma

LOWEST, HIGHEST = 1.0, 50.0  # Of all numbers in theta.
# Numbers travel between processes as float32: a beta next to 1 would arrive
# as 1, where log(1 - beta) is not finite.
_MARGIN = 1e-6


class Distribution:
    """One Dirichlet over alpha, and a Beta over each beta, all independent.

    `x = (alpha, beta)` and `theta`, which has the Dirichlet's concentrations
    first and then two numbers for each Beta. A Beta over `beta` is a
    Dirichlet over `(beta, 1 - beta)`, so all is one product of Dirichlets:

    ```
    log p_theta(x) = <theta - 1, T(x)> - A(theta)
    A(theta)       = sum over Dirichlets of sum_k log G(theta_k) - log G(S)
    ```

    with `T(x)`, the logarithms of all shares; `G`, the gamma function; and
    `S`, the sum of a Dirichlet's `theta_k`. It is an exponential family in
    its natural parameters: the Hessian of `log p_theta` is `-F(theta)` for
    every x.

    Args:
        num_alphas: Integer, how many shares have the sum 1.
        num_betas: Integer, how many numbers are in [0, 1].

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), section 3.4.1
    """

    def __init__(self, num_alphas, num_betas):
        self.num_alphas = num_alphas
        sizes = [num_alphas] + [2] * num_betas
        self._starts = np.cumsum([0] + sizes[:-1])
        self._groups = np.repeat(np.arange(len(sizes)), sizes)
        self.size = len(self._groups)

    def sample(self, theta, rng, count):
        """Returns draws of x, of shape `(count, num_alphas + num_betas)`.

        Args:
            theta: Float array of shape `(size,)`.
            rng: NumPy generator.
            count: Integer.
        """
        gammas = rng.standard_gamma(theta, (count, self.size))
        return self._numbers(self._shares(gammas))

    def mean(self, theta):
        """Returns the mean of x, of shape `(num_alphas + num_betas,)`."""
        return self._numbers(self._shares(theta))

    def log_density(self, x, theta):
        """Returns `log p_theta(x)`.

        Args:
            x: Float array of shape `(.., num_alphas + num_betas)`.
            theta: Float array of shape `(size,)`.

        Returns:
            Float array of shape `(..,)`.
        """
        sums = np.add.reduceat(theta, self._starts)
        normalizer = np.sum(gammaln(theta)) - np.sum(gammaln(sums))
        return self._statistics(x) @ (theta - 1) - normalizer

    def score(self, x, theta):
        """Returns the gradient of `log p_theta(x)`, of shape `(.., size)`."""
        return self._statistics(x) - digamma(theta) + digamma(self._sums(theta))

    def fisher(self, theta):
        """Returns F, of shape `(size, size)`: minus the Hessian, for all x."""
        same = self._groups[:, None] == self._groups
        total = polygamma(1, self._sums(theta))
        return np.diag(polygamma(1, theta)) - same * total

    def project(self, theta):
        """Returns theta with all numbers in [1, 50].

        A Dirichlet with a number above 50 is scaled down as a whole, which
        keeps its mean: to clip every number at 50 would pull a mean that is
        nearly certain to the middle.
        """
        largest = np.maximum.reduceat(theta, self._starts)
        scales = np.minimum(1.0, HIGHEST / np.maximum(largest, LOWEST))
        return np.clip(theta * scales[self._groups], LOWEST, HIGHEST)

    def _sums(self, theta):
        sums = np.add.reduceat(theta, self._starts, axis=-1)
        return sums[..., self._groups]

    def _shares(self, values):
        return values / self._sums(values)

    def _numbers(self, shares):
        """x of all shares: `1 - beta` is left out."""
        k = self.num_alphas
        return np.concatenate([shares[..., :k], shares[..., k::2]], axis=-1)

    def _statistics(self, x):
        alpha, beta = np.split(np.asarray(x, "float64"), [self.num_alphas], -1)
        pairs = np.stack([beta, 1 - beta], axis=-1)
        pairs = pairs.reshape(*beta.shape[:-1], -1)
        shares = np.concatenate([alpha, pairs], axis=-1)
        return np.log(np.clip(shares, _MARGIN, 1 - _MARGIN))
