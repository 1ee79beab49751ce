"""S2E's search as an oracle of KerasTuner (Yao et al., 2020)."""

import copy
import os
import time

import keras_tuner
import numpy as np

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_positive
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.epochs import generator
from keras_bilevel.engine import replace_file
from keras_bilevel.keras_private import OracleHooks
from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.schedules.schedule import PREFIX
from keras_bilevel.tuners.search import OTHERS
from keras_bilevel.tuners.search import Result
from keras_bilevel.tuners.search import Search
from keras_bilevel.tuners.stopping import Stopping

# By this name tuners report an epoch's value. KerasTuner takes reports under
# the objective's own for the trial's result.
EPOCH_VALUE = "s2e_epoch_value"
_MEND = "Pass `overwrite=True` or another `project_name` to begin a new one."


class S2EOracle(OracleHooks, keras_tuner.Oracle):
    """Searches for a schedule R(t): Algorithm 2 of S2E.

    Schedules `x = (alpha, beta)` are drawn from `p_theta`: a Dirichlet over
    alpha and a Beta over each beta, uniform at first. After every
    `samples_per_round` trials theta makes a step on
    `J(theta) = E[f(x)]`, with gradient and Hessian of Proposition 1.

    With few trials both estimates are mostly noise. So by default a Gaussian
    process over the *schedules* tried so far is used in two ways: each trial is
    the best of `candidates` draws from `p_theta`, by its lower confidence
    bound; and Proposition 1 is computed from its predictions for as many fresh
    draws. The first two rounds do without it. `candidates=1` is the paper's
    algorithm as it stands.

    Trials that fail, or end with a value that is not finite, count among the K
    trials of their round, but not in its estimates. A round without two
    different values leaves theta as it is.

    Hyperparameters of your own are drawn at random beside the schedule's.

    Args:
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_trials: Integer, K times the number of rounds, or `None` for no
            limit. Defaults to 24.
        samples_per_round: Integer, K, at least 2. Defaults to 4.
        update: String: `"newton"`, the paper's; `"cubic"`, with cubic
            regularization; `"natural"` or `"gradient"`, which the paper
            compares with. Defaults to `"newton"`.
        step: Float, rho. Values are divided by their spread first. For
            `"cubic"` it is the inverse of the regularization. Defaults to 1.
        candidates: Integer, from how many draws a trial is chosen. Defaults
            to 256.
        shared: Boolean, as in `S2ESchedule`: 8 numbers instead of 20.
            Defaults to `False`.
        prefix: String, what the names of the numbers begin with: that of
            `S2ESchedule.from_hyperparameters`. Defaults to `"schedule_"`.
        epochs: Integer, about how many epochs a trial has: schedules are
            compared over these. Defaults to 30.
        stop_below: Float in (0, 1), or `None`: with a tuner that reports
            every epoch, as `S2ETuner` does, a trial is stopped if its value
            is worse than this quantile of the other trials' values after the
            same epoch; 0.5 is their median. None is stopped in the first
            quarter of `epochs`, nor before `samples_per_round` others have
            come as far. Its result is that of the epochs it had. Defaults to
            `None`.
        worker_timeout: Float, after how many seconds without a sign of life a
            worker's trial is given to the next worker; those of `S2ETuner` give
            such signs. Defaults to `None`: a trial stays with its worker.
        seed: Non-negative integer, or `None` to draw one.
        **kwargs: Further arguments of `keras_tuner.Oracle`.

    Attributes:
        theta: Float array of shape `(36,)`, or `(12,)` with `shared`: four
            concentrations of the Dirichlet, then two numbers for each beta.
        thetas: List of these, one for each round so far.
        failure: The error that ended the search, or `None`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    ```python
    oracle = kb.tuners.S2EOracle(
        objective=keras_tuner.Objective("val_accuracy", "max"), max_trials=24
    )
    tuner = keras_tuner.Tuner(oracle, build)
    ```

    Reference:

    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377), Algorithm 2
    """

    def __init__(
        self,
        objective=None,
        max_trials=24,
        samples_per_round=4,
        update="newton",
        step=1.0,
        candidates=256,
        shared=False,
        prefix=PREFIX,
        epochs=30,
        stop_below=None,
        worker_timeout=None,
        seed=None,
        **kwargs,
    ):
        if max_trials is not None:
            # KerasTuner would take 0 for no limit.
            max_trials = check_integer("max_trials", max_trials, 1)
        super().__init__(objective=objective, max_trials=max_trials, **kwargs)
        # KerasTuner would take 0 for no seed.
        self.seed = fixed_seed(seed)
        self.shared = shared
        self.prefix = prefix
        self.names = S2ESchedule.hyperparameter_names(prefix, shared)
        if worker_timeout is not None:
            check_positive("worker_timeout", worker_timeout)
        self.worker_timeout = worker_timeout
        self._search = Search(
            samples_per_round,
            update,
            step,
            candidates,
            shared,
            epochs,
            self.seed,
        )
        self._stopping = Stopping(stop_below, epochs // 4, samples_per_round)
        self._num_drawn = 0
        self._rounds = {}  # Of each trial: which theta it was drawn with.
        self._signs_of_life = {}  # Of each trial: when.
        self.failure = None

    @property
    def theta(self):
        return self.thetas[-1]

    @property
    def thetas(self):
        # Not in `end_trial`, which saves before it returns; nor when a trial is
        # scored, as failed ones never are.
        self._search.advance(self.results())
        return self._search.thetas

    @property
    def distribution(self):
        """`Distribution`, p_theta."""
        return self._search.distribution

    def results(self):
        """Returns a list of `Result`, in the order in which trials ended."""
        ended = [self.trials[trial_id] for trial_id in self.end_order]
        results = [self._result(trial) for trial in ended]
        return [result for result in results if result is not None]

    def best_schedule(self, epochs):
        """Returns the schedule of the best trial.

        Args:
            epochs: Integer, the number of epochs it is made for.

        Returns:
            An `S2ESchedule`.

        Raises:
            ValueError: If no trial has ended with a finite value.
        """
        trials = self.trials.values()
        finite = [t for t in trials if np.isfinite(self._value(t))]
        if not finite:
            raise ValueError(
                "Expected a search with a trial that has ended with a finite "
                f"value. Received: {len(self.end_order)} that have ended, "
                "none with one. Call `search` first."
            )
        # Of equal ones the first, as KerasTuner has it.
        best = min(finite, key=self._value)
        return S2ESchedule.from_hyperparameters(
            best.hyperparameters, epochs, self.prefix, self.shared
        )

    def _result(self, trial):
        if trial.trial_id not in self._rounds:
            return None  # It was not drawn here.
        return Result(
            self._x(trial), self._value(trial), self._rounds[trial.trial_id]
        )

    def _value(self, trial):
        """f(x), to be minimized; NaN if the trial has none."""
        completed = trial.status == "COMPLETED" and trial.score is not None
        return float(self._to_minimize(trial.score)) if completed else np.nan

    def _pending(self):
        """Returns what other workers are trying."""
        return [
            self._x(trial)
            for trial in self.ongoing_trials.values()
            if trial.trial_id in self._rounds
        ]

    def _x(self, trial):
        values = trial.hyperparameters.values
        return np.array([values[name] for name in self.names])

    def populate_space(self, trial_id):
        thetas = self.thetas
        x = self._search.draw(self._num_drawn, self.results(), self._pending())
        values = dict(zip(self.names, x.tolist()))
        for name in self.names:
            self.hyperparameters.Float(name, 0.0, 1.0, default=0.5)
        self._check_free()
        values = self._with_others(values)
        self._rounds[trial_id] = len(thetas) - 1
        self._num_drawn += 1
        return {"status": "RUNNING", "values": values}

    def _check_free(self):
        """Raises an error where a number of the schedule is not free."""
        free = keras_tuner.HyperParameters()
        free.Float("free", 0.0, 1.0)
        expected = _range_of(*free.space)
        for hp in self.hyperparameters.space:
            if hp.name in self.names and _range_of(hp) != expected:
                raise wrong(
                    f"hyperparameter `{hp.name}`",
                    f"{expected}, which the oracle draws from",
                    _range_of(hp),
                    "Leave the numbers of the schedule out of "
                    "`hyperparameters`.",
                )

    def _with_others(self, values):
        """Draws the user's own hyperparameters, as far as they are active."""
        rng = generator(self.seed, OTHERS, self._num_drawn)
        drawn = keras_tuner.HyperParameters()
        for hp in self.hyperparameters.space:
            drawn.merge([hp])
            seed = int(rng.integers(2**31))
            if hp.name not in values and drawn.is_active(hp):
                drawn.values[hp.name] = hp.random_sample(seed)
        return drawn.values | values

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        if self.worker_timeout is not None:
            self._take_over(tuner_id)
        is_begun = tuner_id not in self.ongoing_trials
        trial = super().create_trial(tuner_id)
        if is_begun:
            # It may be a trial that is tried again: KerasTuner would keep its
            # old reports, and ignore the new ones.
            trial.metrics = type(trial.metrics)()
        self._signs_of_life[trial.trial_id] = time.monotonic()
        may_die = self.worker_timeout is not None and self.ongoing_trials
        if trial.status == "STOPPED" and may_die:
            # Nothing new to try; but another worker's trial may come back.
            trial.status = "IDLE"
            self.tuner_ids.add(tuner_id)
        return trial

    def _take_over(self, tuner_id):
        """Gives a lost worker's trial to this one."""
        if tuner_id in self.ongoing_trials:
            return
        latest = time.monotonic() - self.worker_timeout
        for other, trial in list(self.ongoing_trials.items()):
            if self._signs_of_life[trial.trial_id] < latest:
                self.ongoing_trials[tuner_id] = self.ongoing_trials.pop(other)
                # The chief waits for all that are in here.
                self.tuner_ids.discard(other)
                self.tuner_ids.add(tuner_id)
                self.save()
                return

    def get_trial(self, trial_id):
        # A sign of life: see `S2ETuner`.
        self._signs_of_life[trial_id] = time.monotonic()
        return super().get_trial(trial_id)

    def update_trial(self, trial_id, metrics, step=0):
        """Takes in a trial's result, or what it came to after an epoch.

        Args:
            trial_id: String.
            metrics: Dict from names to values; of `EPOCH_VALUE` alone, the
                objective after an epoch.
            step: Integer, the epoch.

        Returns:
            Trial; with status `"STOPPED"` where it is not worth finishing.
        """
        if EPOCH_VALUE not in metrics:
            return super().update_trial(trial_id, metrics, step)
        answer = copy.copy(self.trials[trial_id])
        value = self._to_minimize(metrics[EPOCH_VALUE])
        if self._stopping.is_hopeless(trial_id, int(step), value):
            answer.status = "STOPPED"
        return answer

    def _to_minimize(self, value):
        return -value if self.objective.direction == "max" else value

    def end_trial(self, trial, status="COMPLETED"):
        """Ends a trial, as KerasTuner does.

        Args:
            trial: Trial; or, deprecated by KerasTuner, the name of one.
            status: String, used with a name only.

        Raises:
            RuntimeError: After too many failures in succession. A chief has
                workers to send home first: its `failure` is set instead, and
                nothing new is tried.
        """
        if isinstance(trial, str):
            trial = copy.copy(self.trials[trial])
            trial.status = status
        self.failure = self._end(trial) or self.failure
        if self.failure is not None and not _has_workers():
            raise self.failure

    @keras_tuner.synchronized
    def _end(self, trial):
        """Returns the error, as KerasTuner keeps its lock if one is raised."""
        # A worker that was given up, but was only slow.
        if trial.trial_id in self.end_order:
            return None
        try:
            super().end_trial(trial)
        except RuntimeError as error:
            self._give_up(trial.trial_id)
            return error
        return None

    def _give_up(self, trial_id):
        """Ends the search with a trial that a resumed one begins with."""
        if trial_id in self.end_order:
            self.end_order.remove(trial_id)
        for tuner_id, ongoing in list(self.ongoing_trials.items()):
            if ongoing.trial_id == trial_id:
                del self.ongoing_trials[tuner_id]
        self.max_trials = len(self.trials)

    def get_state(self):
        state = super().get_state()
        state["s2e"] = {
            "thetas": [theta.tolist() for theta in self._search.thetas],
            "rounds": self._rounds,
            "num_drawn": self._num_drawn,
            "epoch_values": self._stopping.get_state(),
            **self._facts(),
        }
        return state

    def _facts(self):
        """What a search that goes on has to have in common."""
        objective = {self.objective.name: self.objective.direction}
        # Of several, all of them.
        objective |= getattr(self.objective, "name_to_direction", {})
        return {"prefix": self.prefix, "objective": objective}

    def set_state(self, state):
        own = state["s2e"]
        size = len(own["thetas"][0])
        if size != self.distribution.size:
            raise wrong(
                "argument `shared`",
                f"that of the search in this directory, with {size} numbers "
                "in theta",
                f"shared={self.shared}, with {self.distribution.size}",
                _MEND,
            )
        for name, fact in self._facts().items():
            before = own.get(name, fact)  # Old files have none.
            if before != fact:
                expected = f"that of the search in this directory, {before!r}"
                raise wrong_argument(name, fact, expected, _MEND)
        ongoing = state["ongoing_trials"].items()
        # Killed in the middle of `end_trial`: over, or to be tried again.
        known = {*state["end_order"], *state["retry_queue"]}
        left = {tuner: trial for tuner, trial in ongoing if trial not in known}
        super().set_state({**state, "ongoing_trials": left})
        # Killed in the middle of `create_trial`: drawn once more, the same.
        started = self.start_order
        self.trials = {name: self.trials[name] for name in started}
        self._search.seed = self.seed
        self._search.thetas = [np.array(theta) for theta in own["thetas"]]
        self._rounds = own["rounds"]
        self._num_drawn = own["num_drawn"]
        self._stopping.set_state(own["epoch_values"])

    # KerasTuner 1.4.8 writes its files in place, and stops at half a file: a
    # kill at the wrong time would end the search for good.

    def save(self):
        write = super(keras_tuner.Oracle, self).save
        replace_file(self.oracle_file(), write)

    def save_trial(self, trial):
        folder = self.trial_folder(trial.trial_id)
        replace_file(os.path.join(folder, "trial.json"), trial.save)


def _range_of(hp):
    """Returns what values a hyperparameter may take, as text."""
    config = hp.get_config()
    parts = [
        f"{name}={value!r}"
        for name, value in config.items()
        if name not in ("name", "default", "conditions")
    ]
    return f"{type(hp).__name__}({', '.join(parts)})"


def _has_workers():
    """Whether this oracle is the chief's, which other processes ask."""
    return "KERASTUNER_ORACLE_IP" in os.environ
