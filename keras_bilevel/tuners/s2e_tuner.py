"""S2E's search as a tuner of KerasTuner (Yao et al., 2020)."""

import inspect
import threading
import time

import keras_tuner

from keras_bilevel import checks
from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.tuners import figures
from keras_bilevel.tuners.reused_model import ReusedModel
from keras_bilevel.tuners.s2e_oracle import EPOCH_VALUE
from keras_bilevel.tuners.s2e_oracle import S2EOracle

_IDLE_SECONDS = 1.0
# The arguments that `S2EOracle` has of its own and hands on to KerasTuner's.
_OPTIONS = {
    name
    for oracle in (S2EOracle, keras_tuner.Oracle)
    for name in inspect.signature(oracle).parameters
    if name != "kwargs"
}


class S2ETuner(keras_tuner.Tuner):
    """Searches for a schedule R(t), and for other hyperparameters at random.

    It is `keras_tuner.Tuner` with an `S2EOracle`, whose arguments it takes as
    its own. Trials must be judged on held-out data, with clean labels or with
    labels as noisy as those of the training data: never on test data.

    Several processes share a search as in KerasTuner: one is the chief, the
    others train. A worker that waits for others gets a further draw of the
    current `p_theta`. Its trial belongs to the round in which it ends; with
    `candidates=1` it is then weighted by the current density over that of the
    rounds it was drawn in. If a worker dies, another one takes over its trial
    after `worker_timeout` seconds; restarted under its name before that, it
    goes on with the trial itself.

    Args:
        hypermodel: Function `hp -> model`, or `keras_tuner.HyperModel`. It
            has to ask for `S2ESchedule.from_hyperparameters(hp, epochs)`.
            With `stop_below`, a `HyperModel.fit` of your own has to pass on
            the `callbacks` that it is given.
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_trials: Integer or `None`, as in `S2EOracle`. Defaults to 24.
        worker_timeout: Float or `None`, as in `S2EOracle`. Defaults to 60.
        **kwargs: All other arguments of `S2EOracle`, such as
            `samples_per_round`, `update`, `candidates`, `shared`,
            `stop_below` and `seed`, with their defaults; and those of
            `keras_tuner.Tuner`, such as `directory`, `project_name` and
            `overwrite`.

    Attributes:
        theta: Float array, what `p_theta` has come to.

    Raises:
        ValueError: If an argument is out of its range, or `hypermodel` does
            not ask for the numbers of a schedule under these names.

    Example:

    ```python
    def build(hp):
        schedule = kb.schedules.S2ESchedule.from_hyperparameters(hp, epochs=30)
        return make_and_compile_model(schedule)

    tuner = kb.tuners.S2ETuner(
        build, objective=keras_tuner.Objective("val_accuracy", "max")
    )
    tuner.search(x, y, validation_data=(x_val, y_val), epochs=30)
    tuner.results_summary(3)
    tuner.plot_schedules(epochs=30).figure.savefig("schedules.png")
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Algorithm 2
    """

    def __init__(
        self,
        hypermodel=None,
        objective=None,
        max_trials=24,
        *,
        worker_timeout=60.0,
        **kwargs,
    ):
        options = {n: kwargs.pop(n) for n in _OPTIONS if n in kwargs}
        oracle = S2EOracle(
            objective, max_trials, worker_timeout=worker_timeout, **options
        )
        super().__init__(oracle, hypermodel, **kwargs)
        self._stops = options.get("stop_below") is not None
        self._is_idle = False
        self._pulse = _Pulse(worker_timeout)
        if hypermodel is not None and self.oracle is oracle:
            _check_names(oracle)

    @property
    def theta(self):
        return self._chief_oracle().theta

    def best_schedule(self, epochs):
        """Returns the schedule of the best trial.

        Args:
            epochs: Integer, the number of epochs it is made for.

        Returns:
            An `S2ESchedule`.

        Raises:
            ValueError: If no trial has ended with a finite value.
        """
        return self._chief_oracle().best_schedule(epochs)

    def plot_schedules(self, epochs, ax=None):
        """Plots the schedules of all trials, the best one bold (Fig. 2).

        Args:
            epochs: Integer, how many epochs to show.
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        oracle = self._chief_oracle()
        return figures.plot_sampled(oracle.results(), epochs, oracle.shared, ax)

    def plot_density(self):
        """Plots the density of `p_theta` over rounds.

        Returns:
            `matplotlib.figure.Figure`, a panel for each number.
        """
        oracle = self._chief_oracle()
        return figures.plot_density(oracle.thetas, oracle.shared)

    def plot_progress(self, ax=None):
        """Plots what every trial scored, and the best one so far.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        oracle = self._chief_oracle()
        objective = oracle.objective
        return figures.plot_progress(
            oracle.results(), objective.direction, objective.name, ax
        )

    def search(self, *fit_args, **fit_kwargs):
        super().search(*fit_args, **fit_kwargs)
        failure = getattr(self.oracle, "failure", None)
        if failure is not None:
            raise failure  # A chief's, which had to send its workers home.

    def pre_create_trial(self):
        # Two calls without a trial between them: nothing to do for now.
        if self._is_idle:
            time.sleep(_IDLE_SECONDS)
        self._is_idle = True

    def on_trial_begin(self, trial):
        self._is_idle = False
        if not isinstance(self.oracle, S2EOracle):
            self._pulse.start(self.oracle, trial.trial_id)
        super().on_trial_begin(trial)

    def on_epoch_end(self, trial, model, epoch, logs=None):
        super().on_epoch_end(trial, model, epoch, logs)
        objective = self.oracle.objective
        if not self._stops or not objective.has_value(logs):
            return
        report = {EPOCH_VALUE: objective.get_value(logs)}
        answer = self.oracle.update_trial(trial.trial_id, report, step=epoch)
        if answer.status == "STOPPED":
            model.stop_training = True

    def on_trial_end(self, trial):
        self._pulse.stop()
        super().on_trial_end(trial)

    def load_model(self, trial):
        # One for each of `get_best_models`, and the next trial's is another.
        if not isinstance(self.hypermodel, ReusedModel):
            return super().load_model(trial)
        with self.hypermodel.anew():
            return super().load_model(trial)

    def _chief_oracle(self):
        if not isinstance(self.oracle, S2EOracle):
            raise RuntimeError(
                "Expected the chief, or a process on its own: a worker knows "
                "its own trial only. Received: a worker. Ask the chief when "
                "its `search()` has returned. Or make the same tuner without "
                "the variables KERASTUNER_*, and call `tuner.oracle.reload()`."
            )
        return self.oracle


class _Pulse:
    """Tells the chief from time to time that a trial's worker is alive.

    Args:
        timeout: Float, the seconds after which its trial is given away, or
            `None` where it never is, and nobody has to know.
    """

    def __init__(self, timeout):
        self._timeout = timeout
        self._stopped = threading.Event()

    def start(self, oracle, trial_id):
        self.stop()
        if self._timeout is None:
            return
        self._stopped = threading.Event()
        threading.Thread(
            target=self._beat,
            args=(oracle, trial_id, self._stopped),
            daemon=True,
        ).start()

    def stop(self):
        self._stopped.set()

    def _beat(self, oracle, trial_id, stopped):
        while not stopped.is_set():
            try:
                oracle.get_trial(trial_id)
            except Exception:
                return  # The chief is gone; the search will say so.
            stopped.wait(self._timeout / 4)


def _check_names(oracle):
    """Raises an error where the model asks for other numbers."""
    asked = [hp.name for hp in oracle.get_space().space]
    missing = [name for name in oracle.names if name not in asked]
    if not missing:
        return
    if not oracle.tune_new_entries:
        raise checks.wrong(
            "argument `hyperparameters`",
            f"{missing[0]!r} and all other numbers of the schedule in it, "
            "since tune_new_entries=False",
            asked,
            "Leave `tune_new_entries` at True.",
        )
    wrong = [name for name in asked if "alpha_" in name or "beta_" in name]
    call = f"{S2ESchedule.__name__}.from_hyperparameters(hp, epochs"
    raise checks.wrong(
        "argument `hypermodel`",
        f"it to call `{call}, prefix={oracle.prefix!r}, "
        f"shared={oracle.shared})`, with the tuner's own `prefix` and "
        "`shared`",
        f"a model that does not ask for {missing[0]!r}, and asks for "
        f"{wrong or asked}",
    )
