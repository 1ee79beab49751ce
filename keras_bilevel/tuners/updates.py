"""Steps of theta: gradient, Hessian, and four preconditioners H."""

import numpy as np

# Assumption 3 wants eigenvalues in [eta, L]. Eta is this share of L.
_ETA = 0.1


def estimate(scores, fisher, values, weights):
    """Estimates gradient and Hessian of `J(theta) = E[f(x)]`.

    ```
    grad J = 1/K sum_i w_i (f_i - b_i) s_i                            (Eq. 7)
    hess J = 1/K sum_i w_i (f_i - b_i) (s_i s_i^T - F)      (Proposition 1)
    ```

    `b_i` is the mean of the *other* values: it changes no expectation, as it
    does not know `x_i`, and takes most of the variance. The mean of all of
    them would shrink both estimates by `1 - 1/K`.

    Args:
        scores: Float array of shape `(K, size)`, the gradients `s_i` of
            `log p_theta(x_i)`.
        fisher: Float array of shape `(size, size)`: `-F` is the Hessian of
            `log p_theta(x)` for every x.
        values: Float array of shape `(K,)`, `f(x_i)`, K > 1.
        weights: Float array of shape `(K,)`: `p_theta(x_i)` over the density
            that `x_i` was drawn from.

    Returns:
        Tuple `(gradient, hessian)`, of shapes `(size,)` and `(size, size)`.
    """
    others = np.sum(weights) - weights
    baseline = (weights @ values - weights * values) / others
    shares = weights * (values - baseline) / len(values)
    gradient = shares @ scores  # Eq. 7
    # Proposition 1
    hessian = (scores.T * shares) @ scores - np.sum(shares) * fisher
    return gradient, hessian


def spread(values, weights):
    """Returns the standard deviation of values with weights."""
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def gradient_step(gradient, hessian, fisher, step):
    """`H = I`."""
    return -step * gradient


def natural_step(gradient, hessian, fisher, step):
    """`H = F`, the Fisher matrix."""
    return -step * np.linalg.solve(fisher, gradient)


def newton_step(gradient, hessian, fisher, step):
    """`H` is the Hessian with absolute eigenvalues in [eta, L].

    Where J is concave Newton's method would climb; the absolute value
    descends. Eigenvalues next to 0, mostly noise, would make steps without
    end: Assumption 3.
    """
    eigenvalues, vectors = np.linalg.eigh(hessian)
    sizes = np.abs(eigenvalues)
    sizes = np.maximum(sizes, _ETA * np.max(sizes))
    return -step * vectors @ (vectors.T @ gradient / sizes)


def cubic_step(gradient, hessian, fisher, step):
    """Minimizes `<g, d> + d^T H d / 2 + |d|^3 / (6 step)` over d.

    The minimum is `d = -(H + r / (2 step) I)^-1 g` with `r = |d|` and a
    positive semi-definite matrix (Nesterov & Polyak, 2006, Eq. 5.5). `|d|`
    falls as r grows, so that bisection finds it.
    """
    eigenvalues, vectors = np.linalg.eigh(hessian)
    parts = vectors.T @ gradient

    def step_of(radius):
        shifted = eigenvalues + radius / (2 * step)
        return -parts / np.maximum(shifted, np.finfo("float64").tiny)

    low = max(0.0, -2 * step * float(eigenvalues[0]))
    high = low + 1.0
    while np.linalg.norm(step_of(high)) > high:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if np.linalg.norm(step_of(middle)) > middle:
            low = middle
        else:
            high = middle
    return vectors @ step_of(high)


STEPS = {
    "newton": newton_step,
    "cubic": cubic_step,
    "natural": natural_step,
    "gradient": gradient_step,
}


def next_theta(distribution, theta, x, values, weights, update, step):
    """Returns theta after a round, steps 7 and 8 of Algorithm 2.

    The values are divided by their spread, so that `step` fits any
    objective. Fewer than two values, or values without spread, leave theta.

    Args:
        distribution: A `Distribution`.
        theta: Float array of shape `(size,)`.
        x: Float array of shape `(K, n)`.
        values: Float array of shape `(K,)`, finite, to be minimized.
        weights: Float array of shape `(K,)`, see `estimate`.
        update: String, one of `STEPS`.
        step: Float, rho.

    Returns:
        Float array of shape `(size,)`, in [1, 50].
    """
    if len(values) < 2 or not spread(values, weights) > 0:
        return theta
    fisher = distribution.fisher(theta)
    gradient, hessian = estimate(
        distribution.score(x, theta),
        fisher,
        values / spread(values, weights),
        weights,
    )
    move = STEPS[update](gradient, hessian, fisher, step)
    if not np.all(np.isfinite(move)):
        return theta
    # Eq. 8, with -rho H^-1 grad J for the move, as f is minimized.
    return distribution.project(theta + move)
