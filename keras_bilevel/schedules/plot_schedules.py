"""Many schedules in one figure."""

import numpy as np
from keras import ops

from keras_bilevel.schedules.checks import read_integer


def plot_schedules(schedules, epochs, best=None, names=None):
    """Plots schedules against epochs, the best one bold.

    Args:
        schedules: Sequence of schedules.
        epochs: Integer, how many epochs to show.
        best: Integer, which of the schedules is drawn bold and in front.
            Defaults to `None`.
        names: Sequence of strings, a name for each schedule. Defaults to
            `None`: only the best one is named.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no schedule, `best` is none of them, or
            `names` has another length.

    Example:

    ```python
    hand_made = [kb.schedules.CoTeachingSchedule(tau) for tau in (0.2, 0.5)]
    kb.schedules.plot_schedules(hand_made, epochs=50, best=1).savefig("r.png")
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 2
    """
    schedules = list(schedules)
    _check(schedules, best, names)
    t = np.arange(read_integer("epochs", epochs, 1))
    labels = [None] * len(schedules) if names is None else list(names)
    if names is None and best is not None:
        labels[best] = "best"

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (schedule, label) in enumerate(zip(schedules, labels)):
        style = {"linewidth": 3.0, "zorder": 3} if i == best else {}
        style = {"linewidth": 0.8, "label": label} | style
        axes.plot(t, ops.convert_to_numpy(schedule(t)), **style)
    axes.set(xlabel="epoch t", ylabel="share kept, R(t)", ylim=(-0.02, 1.02))
    if any(label is not None for label in labels):
        axes.legend()
    return figure


def _check(schedules, best, names):
    if not schedules:
        raise ValueError(
            "Invalid value for argument `schedules`. Expected at least one "
            "schedule. Received: none"
        )
    if best is not None and best not in range(len(schedules)):
        raise ValueError(
            "Invalid value for argument `best`. Expected an integer from 0 to "
            f"{len(schedules) - 1}, the place of a schedule. "
            f"Received: best={best}"
        )
    if names is not None and len(names) != len(schedules):
        raise ValueError(
            "Invalid value for argument `names`. Expected a name for each of "
            f"the {len(schedules)} schedules. Received: names={names}"
        )
