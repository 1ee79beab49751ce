"""A run that was killed and resumed has recorded what a whole one has."""

import functools
import os
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from tests.models.tools import batch_of

N = 64
CALLBACKS = {
    "curves": lambda x, y: kb.callbacks.LabelCurves(x, y, y, (x, y), every=2),
    "evolution": lambda x, y: kb.callbacks.WeightEvolution(y == 0),
    "examples": lambda x, y: kb.callbacks.ExampleHistory(N),
    "selection": lambda x, y: kb.callbacks.SelectionHistory(N),
    "weights": lambda x, y: kb.callbacks.WeightHistory(),
}
# Those that are in one `fit` together.
TOGETHER = {
    "selected": ["curves", "examples", "selection", "weights"],
    "weighed": ["evolution", "examples", "weights"],
}


class Stop(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    """Ends training at a batch of an epoch, or at the end of it."""

    def __init__(self, epoch, batch, end):
        super().__init__()
        self.at = epoch, batch
        self.end = end

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            self.end()

    def on_epoch_end(self, epoch, logs=None):
        if (self.epoch, "end") == self.at:
            self.end()


def model_and_data(name):
    x, y = batch_of(N)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    hidden = keras.layers.Dropout(0.3, seed=4)(hidden)
    net = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    if name in ("evolution", "weighed"):
        model = kb.BilevelModel(net, kb.weighting.Soseleto(N, alpha_lr=50.0))
        data = (
            kb.data.source_target_batches(
                (x, y), (x[:16], y[:16]), source_size=16, target_size=8
            ),
        )
    else:
        model = kb.SelectionModel(
            net,
            rule=kb.selection.SelfPaced(),
            schedule=kb.schedules.ConstantSchedule(0.3),
        )
        data = x, y
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, data


def run(name, folder, order="after", stop=None, epochs=5, save_freq="epoch"):
    """Returns the state of a callback after a run that backs up.

    Of several together it is that of all, each key behind its callback's name.
    """
    keras.utils.set_random_seed(7)
    model, data = model_and_data(name)
    names = TOGETHER.get(name, [name])
    watching = [CALLBACKS[each](*batch_of(N)) for each in names]
    backup = keras.callbacks.BackupAndRestore(str(folder), save_freq)
    callbacks = [backup, *watching] if order == "after" else [*watching, backup]
    arguments = {"batch_size": 16} if len(data) > 1 else {}
    model.fit(
        *data,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks, *([] if stop is None else [stop])],
        **arguments,
    )
    if len(names) == 1:
        return watching[0].get_state()
    return {
        f"{each} {key}": value
        for each, callback in zip(names, watching)
        for key, value in callback.get_state().items()
    }


@functools.cache
def whole_run(name, order):
    with tempfile.TemporaryDirectory() as folder:
        return run(name, folder, order)


def check_equal(state, expected):
    assert set(state) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


def stop():
    raise Stop


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("at", [(0, "end"), (2, 1), (3, "end"), (4, "end")])
@pytest.mark.parametrize("name", TOGETHER)
def test_resumed_equals_whole(name, at, order, tmp_path):
    with pytest.raises(Stop):
        run(name, tmp_path, order, StopAt(*at, stop))
    check_equal(run(name, tmp_path, order), whole_run(name, order))


def test_states_have_something_in_them(tmp_path):
    state = run("curves", tmp_path / "a")
    assert state["epoch"].tolist() == [2, 4, 5]
    assert state["test"].shape == (3,) and state["_sums"].shape == (N, 6)
    state = run("evolution", tmp_path / "b")
    assert state["epoch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert state["mean"].shape == (6, 2)
    assert len(np.unique(state["mean"])) > 6
    assert run("selection", tmp_path / "c")["epochs"].shape == (4, N)


def test_resumed_from_the_middle_of_an_epoch(tmp_path):
    for name, epochs in (("curves", [2, 4, 5]), ("evolution", [*range(6)])):
        folder = tmp_path / name
        with pytest.raises(Stop):
            run(name, folder, stop=StopAt(2, 3, stop), save_freq=3)
        assert run(name, folder, save_freq=3)["epoch"].tolist() == epochs
    folder = tmp_path / "selection"
    with pytest.raises(Stop):
        run("selection", folder, stop=StopAt(2, 3, stop), save_freq=3)
    state = run("selection", folder, save_freq=3)
    assert state["epochs"].shape == (4, N) and np.all(state["marks"][:N] > 0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_killed_process(order, tmp_path):
    whole = run("curves", tmp_path / "a", order)
    code = (
        "from tests.callbacks.resume_test import *\n"
        f"run('curves', {str(tmp_path / 'b')!r}, {order!r},"
        " StopAt(2, 1, lambda: os._exit(9)))"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ)
    assert killed.returncode == 9
    check_equal(run("curves", tmp_path / "b", order), whole)


def test_backup_without_callback_leaves_it_empty(tmp_path):
    model, (x, y) = model_and_data("curves")
    model.fit(x, y, batch_size=16, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    curves = CALLBACKS["curves"](x, y)
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(
            tmp_path / "m.weights.h5"
        )
    )
    model.fit(
        x, y, batch_size=16, epochs=2, verbose=0, callbacks=[curves, load]
    )
    assert curves.curves["epoch"] == [2]


def test_weights_that_are_loaded_later_leave_callbacks_alone(tmp_path):
    model, (x, y) = model_and_data("examples")
    history = CALLBACKS["examples"](x, y)
    path = str(tmp_path / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    callbacks = [history, save]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    before = history.get_state()
    model.load_weights(tmp_path / "1.weights.h5")
    check_equal(history.get_state(), before)


def test_other_callbacks_than_those_of_the_backup_are_an_error(tmp_path):
    with pytest.raises(Stop):
        run("examples", tmp_path, stop=StopAt(2, 1, stop))
    with pytest.raises(ValueError, match="`SelectionHistory` in the place of"):
        run("selection", tmp_path)
