"""How the weights of groups of examples evolve in training."""

import numpy as np

from keras_bilevel.callbacks.keeper import EpochCurves
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.extras import axes_or_new


class WeightEvolution(EpochCurves):
    """Records the mean and the spread of the examples' weights, by group.

    It reads `model.weighting.example_weights`: before the first epoch, and
    after every `every`-th and the last one of each call of `fit`. It keeps
    three floats per group and recording, and saves them with the model's
    weights while it is in `fit`, so that a resumed run has them all.

    Args:
        groups: Boolean or integer array of shape `(n,)`, the group of each
            example: whether its label is wrong, or its class. Defaults to
            `None`, one group.
        every: Integer, number of epochs between two recordings. Defaults to
            `1`.

    Attributes:
        curves: Dict of lists of equal lengths: `epoch` (0 before training,
            counted over all calls of `fit`), `mean`, and the percentiles `low`
            (2.5) and `high` (97.5); of the last three, each entry is a float
            array of shape `(num_groups,)`, by ascending group.

    Raises:
        ValueError: When `fit` begins, if the model's weighting has no
            `example_weights` or `groups` has another length than these.

    Example:

    ```python
    evolution = kb.callbacks.WeightEvolution(wrong)
    model.fit(x, y, epochs=30, callbacks=[evolution])
    evolution.plot(["right", "wrong"]).figure.savefig("evolution.png")
    ```

    Reference:

    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622),
      Fig. 1(d)
    """

    def __init__(self, groups=None, every=1):
        super().__init__(("mean", "low", "high"), every)
        self.groups = None if groups is None else _read_groups(groups)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._check(self._weights())
        if not self.curves["epoch"]:
            self._record()

    def plot(self, names=None, ax=None):
        """Plots the means against epochs, with bands of 95 % of the examples.

        Args:
            names: Sequence of strings, a name for each group, by ascending
                group. Defaults to the groups themselves.
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.

        Raises:
            ValueError: If there is not a name for each group.
        """
        self._check_seen(self.curves["epoch"])
        names = self._names(names)
        mean, low, high = (
            np.reshape(self.curves[key], (-1, len(names)))
            for key in ("mean", "low", "high")
        )
        ax = axes_or_new(ax)
        for i, name in enumerate(names):
            ax.plot(self.curves["epoch"], mean[:, i], label=name)
            ax.fill_between(
                self.curves["epoch"], low[:, i], high[:, i], alpha=0.3
            )
        ax.set(xlabel="epoch", ylabel="weight")
        ax.legend()
        return ax

    def _weights(self):
        weighting = getattr(self.model, "weighting", None)
        return getattr(weighting, "example_weights", None)

    def _check(self, weights):
        if weights is None:
            raise ValueError(
                "Expected a model whose `weighting` has `example_weights` for "
                f"`WeightEvolution`. Received: {type(self.model).__name__} "
                "without. Use a weighting that keeps a weight for each "
                "example, such as `kb.weighting.Soseleto`."
            )
        if self.groups is not None and len(self.groups) != len(weights):
            raise wrong(
                "argument `groups` of `WeightEvolution`",
                f"a group for each of the {len(weights)} examples",
                f"{len(self.groups)} groups",
            )

    def record(self):
        weights = np.asarray(self._weights())
        parts = [weights]
        if self.groups is not None:
            parts = [weights[self.groups == g] for g in np.unique(self.groups)]
        spread = [np.percentile(part, [2.5, 97.5]) for part in parts]
        low, high = np.transpose(spread)
        self.curves["mean"].append(np.array([np.mean(p) for p in parts]))
        self.curves["low"].append(low)
        self.curves["high"].append(high)

    def _names(self, names):
        groups = ["all examples"]
        if self.groups is not None:
            groups = [str(group) for group in np.unique(self.groups)]
        if names is not None and len(names) != len(groups):
            raise wrong_argument(
                "names", names, f"a name for each of the {len(groups)} groups"
            )
        return groups if names is None else names


def _read_groups(groups):
    groups = np.asarray(groups)
    if groups.ndim != 1 or groups.dtype.kind not in "iub":
        raise wrong(
            "argument `groups`",
            "booleans or integers of shape (n,)",
            f"dtype {groups.dtype} and shape {groups.shape}",
        )
    return groups
