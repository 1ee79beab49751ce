"""Which of plain training, few or many shards, averaged or not, suits data."""

import contextlib
import dataclasses
import hashlib
import tempfile
import time

import keras
import keras_tuner
import numpy as np

from keras_bilevel.checks import NewModels
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.arrays import read_examples
from keras_bilevel.data.labels import read_class_ids
from keras_bilevel.extras import axes_or_new
from keras_bilevel.extras import import_extra
from keras_bilevel.models import BilevelModel
from keras_bilevel.weighting import DeepBilevel

_EMA_MOMENTUM = 0.995


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A way to train: 0 shards are plain Keras."""

    num_shards: int
    averaged: bool

    @property
    def name(self):
        shards = f"{self.num_shards} shards" if self.num_shards else "plain"
        return shards + (", averaged" if self.averaged else "")

    def apply(self, model):
        """Returns a compiled model that trains this way."""
        if not self.num_shards and not self.averaged:
            return model
        config = model.get_compile_config()
        if self.averaged:
            optimizer = config["optimizer"]["config"]
            # A `LossScaleOptimizer` has no averages of its own.
            inner = optimizer.get("inner_optimizer", config["optimizer"])
            inner["config"]["use_ema"] = True
            inner["config"]["ema_momentum"] = _EMA_MOMENTUM
        if self.num_shards:
            model = BilevelModel(model, DeepBilevel(self.num_shards))
        try:
            model.compile_from_config(config)
        except TypeError as error:
            raise ValueError(
                "Expected a model that can be compiled like the one of "
                f"`make_model`. Received: {error} Decorate losses, metrics "
                "and optimizers of your own with "
                "`keras.saving.register_keras_serializable`."
            ) from error
        return model

    @property
    def lines(self):
        """What to paste."""
        lines = []
        if self.num_shards:
            lines.append(
                "model = kb.BilevelModel(net, weighting="
                f"kb.weighting.DeepBilevel(num_shards={self.num_shards}))"
            )
        if self.averaged:
            lines.append(
                "# To the arguments of the optimizer add\n"
                f"use_ema=True, ema_momentum={_EMA_MOMENTUM}"
            )
        return "\n".join(lines) or "# Nothing: train as before."


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """The result of `suggest_settings`; `print` shows all of it.

    Args:
        name: String, the setting that is suggested.
        lines: String, the lines to paste.
        table: `pandas.DataFrame`, a row for each setting, the best one first:
            `setting`, `held_out` (mean accuracy on held-out given labels),
            `behind` (by how much it is behind the best one), `error` (standard
            error of that, over repetitions), and `seconds` of a training.
        num_examples: Integer, how many were trained on each time.
        repeats: Integer, how often each setting was tried.

    Example:

    ```python
    found = kb.tuners.suggest_settings(
        make_model, x, y, batch_size=32, epochs=2, repeats=2, verbose=0
    )
    print(found)
    found.plot().figure.savefig("settings.png")
    ```
    """

    name: str
    lines: str
    table: object
    num_examples: int
    repeats: int

    def __str__(self):
        shown = self.table.to_string(index=False, float_format="{:.4f}".format)
        best = self.table["setting"][0]
        if self.name == best:
            reason = "It was the best one"
            if len(self.table) > 1:
                gap, error = self.table.loc[1, ["behind", "error"]]
                reason += f", {gap:.3f} ± {error:.3f} ahead of the next"
        else:
            row = self.table.set_index("setting").loc[self.name]
            reason = (
                f"It is {row['behind']:.3f} ± {row['error']:.3f} behind "
                f"'{best}', which is no more than a standard error, and simpler"
            )
        return (
            f"Trained {self.repeats} times each on {self.num_examples} "
            f"examples, judged by their held-out given labels:\n\n{shown}\n\n"
            f"Suggested: {self.name}. {reason}.\n\n{self.lines}\n"
        )

    def plot(self, ax=None):
        """Plots the held-out accuracy of each setting.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        ax = axes_or_new(ax)
        names = self.table["setting"]
        colors = ["C1" if name == self.name else "C0" for name in names]
        ax.barh(names, self.table["held_out"], color=colors)
        ax.errorbar(
            self.table["held_out"],
            names,
            xerr=self.table["error"],
            fmt="none",
            color="black",
        )
        ax.invert_yaxis()
        ax.set(xlabel="accuracy on held-out given labels")
        return ax


def suggest_settings(
    make_model,
    x,
    y,
    *,
    batch_size=128,
    epochs=30,
    shards=None,
    repeats=3,
    held_out=0.2,
    max_examples=10_000,
    seed=0,
    directory=None,
    verbose=1,
):
    """Tries plain training, few and many shards, each with averaged weights.

    Each setting is trained on a part of the data, and judged by the given
    labels of the rest. No clean labels are needed: although some of the given
    ones are wrong, the setting that generalises best agrees with most of them.
    This is repeated with other parts and other initial weights. Suggested is
    the first setting, in the order of `plain`, `plain, averaged`, few shards
    and so on, that is at most one standard error behind the best one.

    It is a search of KerasTuner: it shows its progress, and goes on in the
    same `directory` if it was interrupted.

    Args:
        make_model: Function without arguments that returns a new compiled
            `keras.Model` with the metric `"accuracy"`.
        x: Array with a row for each example, or a structure of arrays.
        y: The given labels, integers or one-hot.
        batch_size: Integer, of the training that is planned. Defaults to `128`.
        epochs: Integer, of the training that is planned: what is learnt by
            heart takes time. Defaults to `30`.
        shards: Sequence of integers, which divide `batch_size`. Defaults to
            `None`: shards of 16 and of 4 examples, or a few more where these do
            not divide it.
        repeats: Integer, 2 or more. Defaults to `3`.
        held_out: Float in (0, 1), share of the examples to judge by. Defaults
            to `0.2`.
        max_examples: Integer. If there are more examples, as many are drawn.
            A network learns less by heart if there are more data, so take all
            of them if you can. Defaults to `10_000`.
        seed: Integer. Defaults to `0`.
        directory: String, where KerasTuner keeps its results. Defaults to
            `None`: a temporary one.
        verbose: 0 or 1, as KerasTuner's. Defaults to `1`.

    Returns:
        A `Suggestion`, to be printed or plotted.

    Raises:
        ValueError: If `make_model` returns a model without the metric
            `"accuracy"`, with an optimizer that averages weights, that cannot
            be compiled again, or the same model twice; if a number of shards
            does not divide `batch_size`, there are fewer than two repeats, or
            `directory` has a search of something else.

    Example:

    ```python
    def make_model():
        model = keras.models.clone_model(net)
        model.compile(
            "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return model

    found = kb.tuners.suggest_settings(
        make_model, x, y, batch_size=32, epochs=2, repeats=2, verbose=0
    )
    print(found)
    ```
    """
    check_integer("repeats", repeats, 2)
    x, y, _ = read_examples(x, y)
    trials = _Trials(
        make_model,
        x,
        y,
        settings=all_settings(batch_size, shards),
        held_out=held_out,
        max_examples=max_examples,
        repeats=repeats,
        seed=seed,
    )
    facts = {
        "batch_size": batch_size,
        "epochs": epochs,
        "settings": list(trials.settings),
        "held_out": trials.num_held_out,
        "examples": len(y),
        "seed": seed,
        "labels": hashlib.sha256(trials.classes.tobytes()).hexdigest(),
    }
    with tempfile.TemporaryDirectory() as temporary, _own_errors():
        tuner = keras_tuner.Tuner(
            _Grid(trials.grid, facts),
            trials,
            directory=directory or temporary,
            project_name="suggest_settings",
        )
        tuner.search(batch_size=batch_size, epochs=epochs, verbose=verbose)
    return trials.suggestion(tuner.oracle.trials.values())


@contextlib.contextmanager
def _fatal():
    """Lets an error end the search, which would go on and miss a result."""
    try:
        yield
    except Exception as error:
        raise keras_tuner.errors.FatalError(str(error)) from error


@contextlib.contextmanager
def _own_errors():
    """Raises what was wrong, in place of KerasTuner's error."""
    try:
        yield
    except keras_tuner.errors.FatalError as error:
        raise (error.__cause__ or error) from None


class _Grid(keras_tuner.Oracle):
    """Tries each of a list of values; an interrupted search goes on.

    Args:
        grid: List of dicts of values.
        facts: Dict of JSON values. A search goes on only with the same ones.
    """

    def __init__(self, grid, facts):
        objective = keras_tuner.Objective("held_out", "max")
        super().__init__(objective, max_trials=len(grid))
        self.grid = grid
        self.facts = facts

    def get_state(self):
        return {**super().get_state(), "facts": self.facts}

    def set_state(self, state):
        before = state.get("facts", {})
        for name, value in self.facts.items():
            if name in before and before[name] != value:
                raise ValueError(
                    "Expected the search in `directory` to go on with what "
                    f"it began with, {name}={before[name]}. Received: "
                    f"{name}={value}. Pass another `directory`."
                )
        super().set_state(state)

    def populate_space(self, trial_id):
        number = int(trial_id)
        if number >= len(self.grid):
            return {"status": "STOPPED"}
        return {"status": "RUNNING", "values": self.grid[number]}


class _Trials(keras_tuner.HyperModel):
    """One training for each setting and repetition."""

    def __init__(
        self,
        make_model,
        x,
        y,
        *,
        settings,
        held_out,
        max_examples,
        repeats,
        seed,
    ):
        super().__init__()
        self.make_model = make_model
        self.x, self.y = x, y
        self.classes = read_class_ids("y", y)
        self.settings = {setting.name: setting for setting in settings}
        self.num_held_out, self.num_train = _sizes(
            len(y), held_out, max_examples
        )
        self.repeats, self.seed = repeats, seed
        self._new_models = NewModels()

    @property
    def grid(self):
        """Repetitions in turn, so that a look at half of it is fair."""
        return [
            {"setting": name, "repeat": repeat}
            for repeat in range(self.repeats)
            for name in self.settings
        ]

    def build(self, hp):
        name = hp.Choice("setting", list(self.settings))
        repeat = hp.Choice("repeat", list(range(self.repeats)))
        keras.utils.set_random_seed(self.seed + repeat)
        with _fatal():
            model = self.make_model()
            _check(model)
            self._new_models.check(model)
            return self.settings[name].apply(model)

    def fit(self, hp, model, batch_size, epochs, **unused):
        # KerasTuner's callbacks save weights, which nobody wants here.
        start = time.monotonic()
        with _fatal():
            seen, unseen = self._split(hp.get("repeat"))
            model.fit(*seen, batch_size=batch_size, epochs=epochs, verbose=0)
            self._new_models.add(model)
            logs = model.evaluate(*unseen, verbose=0, return_dict=True)
        seconds = time.monotonic() - start
        return {"held_out": logs["accuracy"], "seconds": seconds}

    def _split(self, repeat):
        selection = import_extra("sklearn.model_selection", "tuner")
        parts = selection.train_test_split(
            np.arange(len(self.y)),
            train_size=self.num_train,
            test_size=self.num_held_out,
            stratify=self._strata(),
            random_state=self.seed + repeat,
        )
        return [
            keras.tree.map_structure(lambda a: a[rows], (self.x, self.y))
            for rows in parts
        ]

    def _strata(self):
        """Returns the classes, those of one example with the largest one.

        `None` where there are more classes than examples in a part.
        """
        _, members, sizes = np.unique(
            self.classes, return_inverse=True, return_counts=True
        )
        members = np.where(sizes[members] < 2, np.argmax(sizes), members)
        count = len(np.unique(members))
        fits = count <= min(self.num_train, self.num_held_out)
        return members if fits else None

    def suggestion(self, trials):
        """Returns the `Suggestion` that follows from all trials."""
        accuracy, seconds = (
            self._by_setting(trials, metric)
            for metric in ("held_out", "seconds")
        )
        means = accuracy.mean(axis=1)
        behind = accuracy[np.argmax(means)] - accuracy
        gap = behind.mean(axis=1)
        error = behind.std(axis=1, ddof=1) / np.sqrt(self.repeats)
        names = list(self.settings)
        # The one-standard-error rule: the simplest that may be the best.
        name = names[np.flatnonzero(gap <= error)[0]]
        pandas = import_extra("pandas", "tuner")
        table = pandas.DataFrame(
            {
                "setting": names,
                "held_out": means,
                "behind": gap,
                "error": error,
                "seconds": seconds.mean(axis=1),
            }
        ).sort_values("held_out", ascending=False, ignore_index=True)
        lines = self.settings[name].lines
        return Suggestion(name, lines, table, self.num_train, self.repeats)

    def _by_setting(self, trials, metric):
        """Returns a metric, an array of shape `(settings, repeats)`."""
        found = {
            (
                trial.hyperparameters["setting"],
                trial.hyperparameters["repeat"],
            ): (trial.metrics.get_best_value(metric))
            for trial in trials
        }
        return np.array(
            [
                [found[name, repeat] for repeat in range(self.repeats)]
                for name in self.settings
            ]
        )


def all_settings(batch_size, shards=None):
    """Returns the settings to try, the simplest first."""
    check_integer("batch_size", batch_size, 1)
    if shards is None:
        shards = _few_and_many(batch_size)
    for number in shards:
        check_integer("shards", number, 2)
        if batch_size % number:
            raise wrong(
                "argument `shards`",
                "integers of at least 2 that divide `batch_size`, "
                f"{batch_size}",
                number,
                "Pass for instance `batch_size=128, shards=[8, 32]`.",
            )
    return [
        _Setting(number, averaged)
        for number in dict.fromkeys([0, *shards])
        for averaged in (False, True)
    ]


def _few_and_many(batch_size):
    """Returns how many shards of about 16 and of about 4 examples there are."""
    divisors = [n for n in range(2, batch_size) if batch_size % n == 0]
    fitting = [
        [n for n in divisors if n * size <= batch_size] for size in (16, 4)
    ]
    shards = [numbers[-1] for numbers in fitting if numbers]
    if not shards:
        raise wrong_argument(
            "batch_size",
            batch_size,
            "one that can be divided into shards of 4 examples or more",
            "Pass for instance `batch_size=128`, or `shards`.",
        )
    return shards


def _sizes(count, held_out, max_examples):
    check_integer("max_examples", max_examples, 2)
    count = min(count, max_examples)
    num_held_out = round(held_out * count)
    if not 0 < num_held_out < count:
        raise wrong_argument(
            "held_out", held_out, f"a share in (0, 1) of {count} examples"
        )
    return num_held_out, count - num_held_out


def _check(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            "Expected an optimizer without `use_ema`: some of the settings "
            "average weights, and others do not. Received: use_ema=True."
        )
    metrics = (model.get_compile_config() or {}).get("metrics") or []
    if "accuracy" not in keras.tree.flatten(metrics):
        raise ValueError(
            "Expected `make_model` to return a compiled model with the metric "
            f'"accuracy". Received: metrics={metrics}. Pass '
            '`metrics=["accuracy"]` to `compile`.'
        )
