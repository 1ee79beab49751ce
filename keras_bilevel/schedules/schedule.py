"""What every schedule is: a share R(t) of the batch at epoch t."""

import numpy as np
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.extras import axes_or_new

# What the names of hyperparameters begin with: names are global in a search,
# and "tau" or "c" may be the user's own.
PREFIX = "schedule_"


class Schedule:
    """The share R(t) of a batch's smallest losses that is kept at epoch t.

    A network learns easy patterns first and wrong labels later. So R(0) = 1,
    and R falls as the network begins to memorize; it may rise again at the
    end. All values are in [0, 1].

    To write a new one, subclass and implement `share`, with `keras.ops` and
    without Python conditions on `t`, which is a tensor inside `train_step`.

    Attributes:
        epochs: Integer, the number of epochs T that the schedule is made for,
            or `None` (the default) where it fits any number.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class HalfLifeSchedule(kb.schedules.Schedule):
        def share(self, t):
            return keras.ops.power(0.5, t / 10)
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Assumption 1
    """

    epochs = None

    def __call__(self, t):
        """Returns R(t), clipped to [0, 1].

        Args:
            t: Epochs from 0 on: a number, an array or a tensor.

        Returns:
            Float32 tensor of the shape of `t`.
        """
        share = self.share(ops.convert_to_tensor(t, "float32"))
        return ops.clip(share, 0.0, 1.0)

    def share(self, t):
        """Returns R(t) before it is clipped.

        Args:
            t: Float32 tensor of any shape, epochs from 0 on.

        Returns:
            Float32 tensor of the shape of `t`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `share(t)`."
        )

    def check_epochs(self, epochs):
        """Raises an error unless the schedule suits a run of `epochs` epochs.

        Args:
            epochs: Integer, the last epoch that `fit` will reach.

        Raises:
            ValueError: If the schedule is made for another number of epochs,
                or R(0) is not 1.
        """
        if self.epochs is not None and self.epochs != epochs:
            raise wrong_argument(
                "epochs",
                epochs,
                f"{self.epochs}, the number of epochs that this "
                f"{type(self).__name__} is made for",
                f"Train for {self.epochs} epochs, or make a schedule for "
                f"{epochs}.",
            )
        start = float(self(0))
        if not abs(start - 1) <= 1e-6:
            raise ValueError(
                f"Expected R(0) = 1 from {type(self).__name__}: training "
                "begins with whole batches, as nothing is memorized yet. "
                f"Received: R(0)={start:g}. Let `share(0)` be 1."
            )

    def plot(self, epochs=None, label=None, ax=None):
        """Plots R(t) against epochs.

        Args:
            epochs: Integer, how many epochs to show. Defaults to those the
                schedule is made for.
            label: String, its name in the legend. Defaults to the class name.
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.

        Raises:
            ValueError: If neither `epochs` nor the schedule says how many.
        """
        epochs = self.epochs if epochs is None else epochs
        if epochs is None:
            raise wrong(
                "argument `epochs`",
                f"an integer, as {type(self).__name__} fits any number of "
                "epochs",
                "epochs=None",
            )
        name = type(self).__name__ if label is None else label
        return plot_schedules([self], epochs, best=0, names=[name], ax=ax)

    def __repr__(self):
        options = [f"{k}={v!r}" for k, v in self.get_config().items()]
        return f"{type(self).__name__}({', '.join(options)})"

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def plot_schedules(schedules, epochs, best=None, names=None, ax=None):
    """Plots schedules against epochs, the best one bold.

    Args:
        schedules: Sequence of schedules.
        epochs: Integer, how many epochs to show.
        best: Integer, which of the schedules is drawn bold and in front.
            Defaults to `None`.
        names: Sequence of strings, a name for each schedule. Defaults to
            `None`: only the best one is named.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those of
            a new figure.

    Returns:
        `matplotlib.axes.Axes`.

    Raises:
        ValueError: If there is no schedule, `best` is none of them, or
            `names` has another length.

    Example:

    ```python
    hand_made = [kb.schedules.CoTeachingSchedule(tau) for tau in (0.2, 0.5)]
    kb.schedules.plot_schedules(hand_made, epochs=50, best=1)
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Fig. 2
    """
    schedules = list(schedules)
    _check(schedules, best, names)
    t = np.arange(check_integer("epochs", epochs, 1))
    labels = [None] * len(schedules) if names is None else list(names)
    if names is None and best is not None:
        labels[best] = "best"
    ax = axes_or_new(ax)
    for i, (schedule, label) in enumerate(zip(schedules, labels)):
        style = {"linewidth": 3.0, "zorder": 3} if i == best else {}
        style = {"linewidth": 0.8, "label": label} | style
        ax.plot(t, ops.convert_to_numpy(schedule(t)), **style)
    ax.set(xlabel="epoch t", ylabel="share kept, R(t)", ylim=(-0.02, 1.02))
    if any(label is not None for label in labels):
        ax.legend()
    return ax


def _check(schedules, best, names):
    if not schedules:
        raise wrong("argument `schedules`", "at least one schedule", "none")
    if best is not None and best not in range(len(schedules)):
        raise wrong_argument(
            "best",
            best,
            f"an integer from 0 to {len(schedules) - 1}, the place of a "
            "schedule",
        )
    if names is not None and len(names) != len(schedules):
        raise wrong_argument(
            "names", names, f"a name for each of the {len(schedules)} schedules"
        )
