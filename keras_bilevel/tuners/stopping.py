"""Which trials are not worth finishing."""

import numbers

import numpy as np

from keras_bilevel.checks import wrong_argument


class Stopping:
    """Compares trials with one another, at the same epoch.

    This is the median stopping rule, with the values of the others at the same
    epoch in place of their averages up to it: early epochs say little, as all
    schedules begin alike.

    Args:
        below: Float in (0, 1), the quantile of the others' values that a
            trial must not be worse than; `None` stops none.
        first: Integer, the first epoch that counts.
        least: Integer, how many others must have come as far.

    Attributes:
        values: Dict from the name of a trial to a dict from epochs to values,
            to be minimized.

    Reference:

    - [Golovin et al., 2017](https://research.google/pubs/pub46180/), 3.2.1
    """

    def __init__(self, below, first, least):
        self.below = _read_below(below)
        self.first = first
        self.least = least
        self.values = {}

    def is_hopeless(self, trial_id, epoch, value):
        """Records a trial's value, and returns whether to stop the trial.

        Args:
            trial_id: String.
            epoch: Integer, from 0.
            value: Float, to be minimized. NaN is worse than all others.
        """
        value = np.inf if np.isnan(value) else float(value)
        self.values.setdefault(trial_id, {})[epoch] = value
        others = [
            values[epoch]
            for other, values in self.values.items()
            if other != trial_id and epoch in values
        ]
        if self.below is None or epoch < self.first or len(others) < self.least:
            return False
        others = np.sort(others)
        # As floats, (1 - 0.8) * 5 is below 1.
        place = int(round((1 - self.below) * len(others), 9))
        return value > others[min(place, len(others) - 1)]

    def get_state(self):
        return {name: list(v.items()) for name, v in self.values.items()}

    def set_state(self, state):
        self.values = {name: dict(items) for name, items in state.items()}


def _read_below(below):
    if below is None or isinstance(below, numbers.Real) and 0 < below < 1:
        return below
    raise wrong_argument(
        "stop_below",
        below,
        "`None` or a float in (0, 1), a quantile of the other trials' results",
    )
