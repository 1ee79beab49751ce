"""Schedules, and what they are in float64 NumPy, from the formulas."""

import numpy as np

from keras_bilevel import schedules

EPOCHS = 30
TIMES = np.array([0.0, 0.25, 1.0, 2.5, 7.0, 10.0, 15.5, 29.0, 30.0, 90.0])
ALPHA = np.array([0.1, 0.2, 0.3, 0.4])
BETA = np.random.default_rng(1).random((4, 4))
VALUES = [1.0, 0.9, 0.5, 0.25, 0.75]
UNITS = np.array([[-0.5, 0.3, 0.2], [0.6, 0.1, 0.9], [0.2, 0.1, 0.7]])


def co_teaching(t, tau, c, t_k):
    return 1 - tau * np.minimum((t / t_k) ** c, 1)


def s2e(t, alpha, beta, epochs, scales):
    """Eq. 4 with Table 1, for a_1, a_4 > 0."""
    total = np.zeros_like(t)
    for i in range(4):
        a_1, a_2, a_3, a_4 = np.asarray(beta[i]) * scales
        if i in (0, 1):
            fall = np.exp(-a_2 * t**a_1)
        else:
            fall = 1 / (1 + a_2 * t) ** a_1
        if i in (0, 2):
            rise = (t / epochs) ** a_4
        else:
            rise = np.log(1 + t**a_4) / np.log(1 + epochs**a_4)
        total += alpha[i] * (fall + a_3 * rise)
    return np.clip(total, 0, 1)


def rbf(t, weights, centers, widths, epochs):
    def network(u):
        units = zip(weights, centers, widths)
        return sum(
            w * np.exp(-((u - c) ** 2) / (2 * s**2)) for w, c, s in units
        )

    return np.clip(1 + network(t / epochs) - network(0), 0, 1)


def mlp(t, weights, slopes, biases, epochs):
    def network(u):
        units = zip(weights, slopes, biases)
        return sum(w * np.tanh(a * u + b) for w, a, b in units)

    return np.clip(1 + network(t / epochs) - network(0), 0, 1)


def monotone(t, seed, num_knots, epochs):
    draws = np.random.default_rng(seed).random(num_knots)
    levels = np.append(1, np.sort(draws)[::-1])
    return np.interp(t, np.linspace(0, epochs, num_knots + 1), levels)


def cases():
    """Returns schedules with what they are at `TIMES`, by a name."""
    scales = np.array([1, 0.5, 0.5, 2])
    shared = np.tile(BETA[0], (4, 1))
    wide = np.array([1, 1, 1, 1])
    epoch = np.minimum(np.floor(TIMES), 4).astype(int)
    return {
        "co_teaching": (
            schedules.CoTeachingSchedule(0.45, c=1.5, t_k=12),
            co_teaching(TIMES, 0.45, 1.5, 12),
        ),
        "co_teaching_default": (
            schedules.CoTeachingSchedule(0.5),
            co_teaching(TIMES, 0.5, 1, 10),
        ),
        "constant": (
            schedules.ConstantSchedule(0.2),
            np.where(TIMES < 1, 1, 0.8),
        ),
        "piecewise": (
            schedules.PiecewiseSchedule(VALUES),
            np.array(VALUES)[epoch],
        ),
        "s2e": (
            schedules.S2ESchedule(ALPHA, BETA, EPOCHS),
            s2e(TIMES, ALPHA, BETA, EPOCHS, scales),
        ),
        "s2e_shared": (
            schedules.S2ESchedule(ALPHA, BETA[0], EPOCHS, shared=True),
            s2e(TIMES, ALPHA, shared, EPOCHS, scales),
        ),
        "s2e_wide": (
            schedules.S2ESchedule(ALPHA, BETA, EPOCHS, scales=wide),
            s2e(TIMES, ALPHA, BETA, EPOCHS, wide),
        ),
        "rbf": (
            schedules.RBFSchedule(*UNITS, epochs=EPOCHS),
            rbf(TIMES, *UNITS, EPOCHS),
        ),
        "mlp": (
            schedules.MLPSchedule(*UNITS * 3, epochs=EPOCHS),
            mlp(TIMES, *UNITS * 3, EPOCHS),
        ),
        "monotone": (
            schedules.RandomMonotoneSchedule(EPOCHS, seed=3, num_knots=5),
            monotone(TIMES, 3, 5, EPOCHS),
        ),
    }
