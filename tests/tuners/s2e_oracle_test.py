"""The oracle and the tuner in one process; what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import types

import keras_tuner
import numpy as np
import pytest

import keras_bilevel as kb
from tests.tuners import tools

# KerasTuner's, where a trial has no value but NaN.
NAN = pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
KILLED = """
import sys
import threading
import keras_bilevel

# An extra, which takes seconds: only those who search import it.
assert "keras_tuner" not in sys.modules
keras_bilevel.tuners.S2ETuner

from tests.tuners import tools

class Tuner(tools.DistanceTuner):
    def run_trial(self, trial, **kwargs):
        print("begins", trial.trial_id, flush=True)
        return super().run_trial(trial, **kwargs)

Tuner(
    directory=sys.argv[1], objective=tools.OBJECTIVE, max_trials=400, seed=3
).search(verbose=0)
"""


def search(directory, **options):
    tuner = tools.tuner(directory, **options)
    tuner.search(verbose=0)
    return tuner


def end(oracle, trial, value=None, status="COMPLETED"):
    if value is not None:
        oracle.update_trial(trial.trial_id, {"distance": value})
    trial.status = status
    oracle.end_trial(trial)


def new_oracle(directory, **options):
    options = {"objective": tools.OBJECTIVE, "seed": 0} | options
    oracle = kb.tuners.S2EOracle(**options)
    oracle._set_project_dir(str(directory), "search")
    oracle.verbose = 0
    return oracle


def test_search(tmp_path, capsys):
    tuner = search(tmp_path, max_trials=16)
    results = tuner.oracle.results()
    assert len(results) == 16
    assert len(tuner.oracle.thetas) == 5
    assert not np.array_equal(tuner.theta, np.ones(36))
    values = tools.values_of(tuner.oracle)
    names = kb.schedules.S2ESchedule.hyperparameter_names()
    for value, result in zip(values, results):
        assert list(value) == [*names, "rate"]
        assert 1e-3 <= value["rate"] <= 1e-1
        assert sum(value[name] for name in names[:4]) == pytest.approx(1)
    assert len({value["rate"] for value in values}) == 16
    best = min(results, key=lambda result: result.value)
    np.testing.assert_allclose(tuner.best_schedule(30).alpha, best.x[:4])
    tuner.results_summary(1)
    assert "schedule_alpha_0" in capsys.readouterr().out


def test_best_schedule_before_a_search_is_an_error():
    oracle = kb.tuners.S2EOracle(objective="val_loss", max_trials=2)
    with pytest.raises(ValueError, match="Call `search` first"):
        oracle.best_schedule(30)


@NAN
@pytest.mark.parametrize("direction, sign", [("min", 1), ("max", -1)])
def test_best_schedule_is_that_of_a_finite_value(tmp_path, direction, sign):
    oracle = new_oracle(tmp_path, objective=tools.objective(direction))
    for value in (None, -np.inf, np.nan):
        trial = oracle.create_trial("tuner")
        status = "FAILED" if value is None else "COMPLETED"
        end(oracle, trial, value and sign * value, status)
    with pytest.raises(ValueError, match="finite value. Received: 3 that"):
        oracle.best_schedule(30)
    best = None
    for value in (0.3, 0.2, 0.2):
        trial = oracle.create_trial("tuner")
        end(oracle, trial, sign * value)
        best = best or (trial if value == 0.2 else None)
    alpha = oracle.best_schedule(30).alpha
    np.testing.assert_allclose(alpha, oracle._x(best)[:4])


def test_shared_numbers_and_another_prefix(tmp_path):
    class Tuner(kb.tuners.S2ETuner):
        def run_trial(self, trial, **kwargs):
            hp = trial.hyperparameters
            make = kb.schedules.S2ESchedule.from_hyperparameters
            return float(make(hp, 30, prefix="r/", shared=True)(20))

    tuner = Tuner(
        objective=keras_tuner.Objective("share", "max"),
        max_trials=24,
        shared=True,
        prefix="r/",
        seed=0,
        directory=str(tmp_path),
    )
    tuner.search(verbose=0)
    assert tuner.theta.shape == (12,)
    assert tuner.best_schedule(30).shared
    values = [-result.value for result in tuner.oracle.results()]
    assert np.mean(values[12:]) > np.mean(values[:8])


def test_keras_models_are_searched(tmp_path):
    import keras

    def build(hp):
        schedule = kb.schedules.S2ESchedule.from_hyperparameters(hp, 2)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(float(schedule(1))), "mse")
        return model

    tuner = kb.tuners.S2ETuner(
        build,
        "val_loss",
        max_trials=3,
        seed=0,
        directory=str(tmp_path),
        overwrite=True,
    )
    x, y = np.ones((4, 2)), np.ones((4, 1))
    tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
    assert len(tuner.oracle.results()) == 3
    assert all(np.isfinite(r.value) for r in tuner.oracle.results())
    assert tuner.get_best_models(1)[0].predict(x, verbose=0).shape == (4, 1)


@pytest.mark.parametrize("seed", [0, 5])
def test_seed_fixes_the_search(tmp_path, seed):
    first, second, other = (
        tools.values_of(search(tmp_path / name, seed=s, max_trials=10).oracle)
        for name, s in (("a", seed), ("b", seed), ("c", seed + 1))
    )
    assert first == second
    assert first[0] != other[0]


def test_resumed_search_is_the_same(tmp_path):
    whole = search(tmp_path / "whole", max_trials=20)
    search(tmp_path / "parts", max_trials=11)
    parts = search(tmp_path / "parts", max_trials=20)
    expected, found = (tools.values_of(t.oracle) for t in (whole, parts))
    assert expected == found
    np.testing.assert_array_equal(whole.oracle.thetas, parts.oracle.thetas)


def test_killed_search_is_the_same(tmp_path):
    expected = tools.values_of(search(tmp_path / "a", max_trials=24).oracle)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, tmp_path / "b"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    # Wherever it is by the time that it is killed.
    for line in process.stdout:
        if line == "begins 011\n":
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    resumed = search(tmp_path / "b", max_trials=24)
    found = tools.values_of(resumed.oracle)
    assert found == expected
    order = resumed.oracle.end_order
    assert len(set(order)) == len(order) == len(resumed.oracle.trials)


@NAN
@pytest.mark.parametrize("step", ["created", "ended", "retried"])
def test_kill_between_two_files(tmp_path, step):
    """`trial.json` is written before `oracle.json`, which is ahead of it."""
    options = {"max_trials": 9, "max_retries_per_trial": step == "retried"}
    oracle = new_oracle(tmp_path, **options)
    for value in (0.1, 0.3, 0.2):
        end(oracle, oracle.create_trial("tuner"), value)
    path = tmp_path / "search" / "oracle.json"
    before = path.read_text()
    trial = oracle.create_trial("tuner")
    if step == "created":
        path.write_text(before)
    else:
        # The file has it as over and as going on: KerasTuner saves first.
        end(oracle, trial, 0.15 if step == "ended" else np.nan)
    expected = trial.hyperparameters.values
    oracle = new_oracle(tmp_path, **options)
    oracle.reload()
    following = oracle.create_trial("tuner")
    if step == "ended":
        assert following.trial_id == "4"
        assert len(oracle.thetas) == 2
    else:
        assert following.trial_id == trial.trial_id
        assert following.hyperparameters.values == expected
        end(oracle, following, 0.2)
        assert oracle.create_trial("tuner").trial_id == "4"
    assert len(oracle.end_order) == len(set(oracle.end_order)) == 4


def test_retried_trial_reports_anew(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=4)
    trial = oracle.create_trial("tuner")
    oracle.update_trial(trial.trial_id, {"distance": 0.9})
    oracle = new_oracle(tmp_path, max_trials=4)  # Killed before the end.
    oracle.reload()
    again = oracle.create_trial("tuner")
    assert again.trial_id == trial.trial_id
    assert not oracle.get_trial(trial.trial_id).metrics.exists("distance")
    end(oracle, again, 0.2)
    assert oracle.trials[trial.trial_id].score == 0.2


def test_half_a_file_is_never_left(tmp_path, monkeypatch):
    oracle = new_oracle(tmp_path)
    oracle.create_trial("tuner")
    path = tmp_path / "search" / "oracle.json"
    whole = path.read_text()

    def killed(self, name):
        with open(name, "w") as file:
            file.write('{"half": ')
        raise KeyboardInterrupt

    classes = kb.tuners.S2EOracle.__mro__
    stateful = next(c for c in classes if c.__name__ == "Stateful")
    monkeypatch.setattr(stateful, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        oracle.save()
    assert path.read_text() == whole
    json.loads(whole)


@pytest.mark.parametrize("status", ["FAILED", "INVALID"])
def test_failed_trials_close_their_round(tmp_path, status):
    oracle = new_oracle(tmp_path, max_trials=8, candidates=1)
    for value in (0.1, None, 0.3, None):
        trial = oracle.create_trial("tuner")
        ending = status if value is None else "COMPLETED"
        end(oracle, trial, value, ending)
    assert len(oracle.thetas) == 2
    assert not np.array_equal(oracle.theta, np.ones(36))


def test_a_trial_may_be_ended_by_its_name(tmp_path):
    oracle = new_oracle(tmp_path)
    name = oracle.create_trial("tuner").trial_id
    oracle.update_trial(name, {"distance": 0.1})
    oracle.end_trial(name)
    assert oracle.trials[name].score == 0.1
    name = oracle.create_trial("tuner").trial_id
    oracle.end_trial(name, "FAILED")
    assert oracle.trials[name].status == "FAILED"


@NAN
def test_values_that_are_not_finite_are_left_out(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=8, candidates=1)
    for value in (np.inf, 0.1, np.nan, 0.1):
        end(oracle, oracle.create_trial("tuner"), value)
    assert len(oracle.thetas) == 2
    np.testing.assert_array_equal(oracle.theta, np.ones(36))


def test_no_two_workers_share_a_draw_and_none_waits(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=7, candidates=1)
    trials = [oracle.create_trial(f"worker{i}") for i in range(7)]
    assert {trial.status for trial in trials} == {"RUNNING"}
    firsts = {t.hyperparameters.values["schedule_beta_0_0"] for t in trials}
    assert len(firsts) == 7
    for trial in reversed(trials):
        end(oracle, trial, float(trial.trial_id))
    assert len(oracle.thetas) == 2
    assert oracle.create_trial("worker0").status == "STOPPED"


def test_workers_are_told_what_the_others_try(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=20)
    for i in range(8):
        end(oracle, oracle.create_trial("a"), 0.1 * i)
    told = []
    draw = oracle._search.draw
    oracle._search.draw = lambda *args: told.append(args[2]) or draw(*args)
    trials = [oracle.create_trial(name) for name in "abc"]
    tried = [
        [trial.hyperparameters.values[name] for name in oracle.names]
        for trial in trials
    ]
    assert [len(pending) for pending in told] == [0, 1, 2]
    np.testing.assert_array_equal(told[2], tried[:2])


def test_too_many_failures_end_the_search_and_free_the_oracle(tmp_path):
    oracle = new_oracle(tmp_path, max_consecutive_failed_trials=2)
    end(oracle, oracle.create_trial("a"), status="FAILED")
    last = oracle.create_trial("a")
    with pytest.raises(RuntimeError, match="consecutive failures"):
        end(oracle, last, status="FAILED")
    statuses = []
    # KerasTuner would keep its lock, for which another thread waits forever.
    other = threading.Thread(
        target=lambda: statuses.append(oracle.create_trial("b").status),
        daemon=True,
    )
    other.start()
    other.join(60)
    assert statuses == ["STOPPED"]


def test_chief_sends_its_workers_home_before_it_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    oracle = new_oracle(tmp_path, max_consecutive_failed_trials=1)
    failing, good = oracle.create_trial("a"), oracle.create_trial("b")
    end(oracle, failing, status="FAILED")
    assert "consecutive failures" in str(oracle.failure)
    assert oracle.create_trial("a").status == "STOPPED"
    end(oracle, good, 0.1)
    assert oracle.create_trial("b").status == "STOPPED"
    assert not oracle.ongoing_trials and not oracle.tuner_ids
    assert oracle.end_order == [good.trial_id]


def test_search_that_failed_goes_on_with_its_last_trial(tmp_path):
    class Failing(tools.DistanceTuner):
        failing = ("1", "2")

    options = {"objective": tools.OBJECTIVE, "max_trials": 6, "seed": 3}
    options |= {"max_consecutive_failed_trials": 2, "directory": str(tmp_path)}
    with pytest.raises(RuntimeError, match="consecutive failures"):
        Failing(**options).search(verbose=0)
    tuner = tools.DistanceTuner(**options)
    tuner.search(verbose=0)
    statuses = [tuner.oracle.trials[f"{i}"].status for i in range(6)]
    assert statuses == ["COMPLETED", "FAILED", *["COMPLETED"] * 4]


def test_lost_trial_goes_to_the_next_worker(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    oracle = new_oracle(tmp_path, max_trials=2, worker_timeout=10)
    lost, kept = oracle.create_trial("a"), oracle.create_trial("b")
    end(oracle, kept, 0.2)
    now[0] = 11.0
    taken = oracle.create_trial("b")
    assert taken.trial_id == lost.trial_id
    assert oracle.tuner_ids == {"b"}
    end(oracle, taken, 0.1)
    end(oracle, lost, 0.3)  # It was slow, not dead.
    assert oracle.end_order == [kept.trial_id, lost.trial_id]
    assert oracle.trials[lost.trial_id].score == 0.1
    assert oracle.create_trial("b").status == "STOPPED"


def test_last_worker_waits_for_those_that_may_die(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=2, worker_timeout=1e3)
    slow, fast = oracle.create_trial("a"), oracle.create_trial("b")
    end(oracle, fast, 0.2)
    assert oracle.create_trial("b").status == "IDLE"
    assert oracle.tuner_ids == {"a", "b"}
    end(oracle, slow, 0.1)
    assert oracle.create_trial("b").status == "STOPPED"


def test_sign_of_life_keeps_a_trial(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    oracle = new_oracle(tmp_path, max_trials=2, worker_timeout=10)
    slow, fast = oracle.create_trial("a"), oracle.create_trial("b")
    end(oracle, fast, 0.2)
    now[0] = 9.0
    oracle.get_trial(slow.trial_id)
    now[0] = 18.0
    assert oracle.create_trial("b").status == "IDLE"
    now[0] = 20.0
    assert oracle.create_trial("b").trial_id == slow.trial_id


def test_idle_worker_sleeps(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    tuner = tools.tuner(tmp_path)
    tuner.pre_create_trial()
    assert not slept
    tuner.pre_create_trial()
    tuner.pre_create_trial()
    assert len(slept) == 2
    tuner.on_trial_begin(tuner.oracle.create_trial("tuner0"))
    tuner.pre_create_trial()
    assert len(slept) == 2


def test_conditional_hyperparameters_of_the_user(tmp_path):
    def build(hp):
        tools.distance(hp)
        kind = hp.Choice("kind", ["a", "b"])
        with hp.conditional_scope("kind", ["b"]):
            if kind == "b":
                hp.Int("depth", 1, 9)

    class Tuner(kb.tuners.S2ETuner):
        def run_trial(self, trial, **kwargs):
            self.hypermodel.build(trial.hyperparameters)
            return tools.distance(trial.hyperparameters)

    tuner = Tuner(
        build,
        tools.OBJECTIVE,
        max_trials=12,
        seed=0,
        directory=str(tmp_path),
    )
    tuner.search(verbose=0)
    for values in tools.values_of(tuner.oracle):
        assert ("depth" in values) == (values["kind"] == "b")
    assert {v["kind"] for v in tools.values_of(tuner.oracle)} == {"a", "b"}


@pytest.mark.parametrize("options", [{"prefix": "r_"}, {"shared": True}])
def test_error_for_a_model_with_other_names(tmp_path, options):
    with pytest.raises(ValueError, match="Expected it to call"):
        kb.tuners.S2ETuner(
            lambda hp: tools.distance(hp), directory=str(tmp_path), **options
        )


def test_error_for_another_space_in_the_directory(tmp_path):
    search(tmp_path, max_trials=2)
    with pytest.raises(ValueError, match="overwrite=True"):
        tools.tuner(tmp_path, shared=True)


BOTH = [tools.OBJECTIVE, keras_tuner.Objective("time", "min")]


@pytest.mark.parametrize(
    "first, then, message",
    [
        ({}, {"prefix": "r_"}, "`prefix`.*'schedule_'.*'r_'"),
        ({}, {"objective": tools.objective("max")}, "`objective`.*'min'.*"),
        ({}, {"objective": "val_loss"}, "`objective`.*'distance'.*'val_loss'"),
        ({}, {"objective": BOTH}, "`objective`.*'time'"),
        ({"objective": BOTH}, {}, "`objective`.*'time'"),
    ],
)
def test_error_for_another_search_in_the_directory(
    tmp_path, first, then, message
):
    new_oracle(tmp_path, **first).save()
    with pytest.raises(ValueError, match=f"{message}.*overwrite=True"):
        new_oracle(tmp_path, **then).reload()


def test_several_objectives_in_another_order_go_on(tmp_path):
    new_oracle(tmp_path, objective=BOTH).save()
    new_oracle(tmp_path, objective=BOTH[::-1]).reload()


def test_searches_of_older_versions_go_on(tmp_path):
    oracle = new_oracle(tmp_path)
    end(oracle, oracle.create_trial("tuner"), 0.1)
    path = tmp_path / "search" / "oracle.json"
    state = json.loads(path.read_text())
    del state["s2e"]["prefix"], state["s2e"]["objective"]
    path.write_text(json.dumps(state))
    oracle = new_oracle(tmp_path)
    oracle.reload()
    assert len(oracle.results()) == 1


@pytest.mark.parametrize("seconds, asked", [(60.0, 1), (None, 0)])
def test_pulse_of_a_worker(tmp_path, seconds, asked):
    tuner = tools.tuner(tmp_path, worker_timeout=seconds)
    trial = tuner.oracle.create_trial("tuner0")
    calls, told = [], threading.Event()

    def get_trial(trial_id):
        calls.append(trial_id)
        told.set()

    tuner.oracle = types.SimpleNamespace(
        get_trial=get_trial,
        end_trial=lambda trial: None,
        save=lambda: None,
    )
    tuner.on_trial_begin(trial)
    assert told.wait(10 if asked else 0.1) == bool(asked)
    tuner.on_trial_end(trial)
    assert len(calls) == asked


def test_search_without_a_limit_of_trials(tmp_path):
    oracle = new_oracle(tmp_path, max_trials=None)
    for value in (0.1, 0.2):
        end(oracle, oracle.create_trial("tuner"), value)
    assert oracle.create_trial("tuner").status == "RUNNING"


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"update": "adam"},
        {"worker_timeout": 0},
        {"max_trials": 0},
        {"max_trials": 2.5},
    ],
)
def test_invalid_arguments(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        kb.tuners.S2EOracle(**options)


def test_arguments_of_the_tuner_are_those_of_the_oracle(tmp_path):
    hp = keras_tuner.HyperParameters()
    tuner = tools.tuner(
        tmp_path,
        samples_per_round=2,
        shared=True,
        seed=3,
        hyperparameters=hp,
        max_retries_per_trial=1,
        executions_per_trial=1,
    )
    assert tuner.oracle.theta.shape == (12,)
    assert tuner.oracle.seed == 3 and tuner.oracle.hyperparameters is hp
    assert tuner.oracle.max_retries_per_trial == 1
    assert tuner.oracle.worker_timeout == 60.0
    with pytest.raises((TypeError, ValueError), match="no_such"):
        tools.tuner(tmp_path, no_such=1)


def narrow(hp):
    hp.Float("schedule_beta_1_0", 0.0, 0.1)


def hold(hp):
    hp.Fixed("schedule_beta_1_0", 0.25)


@pytest.mark.parametrize("change", [narrow, hold])
def test_numbers_of_the_schedule_are_free(change, tmp_path):
    hp = keras_tuner.HyperParameters()
    change(hp)
    tuner = tools.tuner(str(tmp_path), hyperparameters=hp)
    with pytest.raises(ValueError, match="hyperparameter `schedule_beta_1_0`"):
        tuner.search(verbose=0)


def test_a_space_that_may_not_grow_needs_the_schedule(tmp_path):
    def build(hp):
        make = kb.schedules.S2ESchedule.from_hyperparameters
        return make(hp, 4)

    hp = keras_tuner.HyperParameters()
    hp.Fixed("rate", 0.1)
    with pytest.raises(ValueError, match="since tune_new_entries=False"):
        kb.tuners.S2ETuner(
            hypermodel=build,
            objective=tools.OBJECTIVE,
            hyperparameters=hp,
            tune_new_entries=False,
            directory=str(tmp_path),
        )
