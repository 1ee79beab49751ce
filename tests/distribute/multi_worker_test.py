"""Two processes train as one device does, and outlive a killed one."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.distribute import processes
from tests.distribute import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two workers have run all cases, until one was killed."""
    path = tmp_path_factory.getbasetemp() / "workers"
    if "PYTEST_XDIST_WORKER" in os.environ:
        # One run serves all processes of pytest.
        path = path.parents[1] / "workers"
    done = path / "done.txt"
    try:
        path.mkdir()
    except FileExistsError:
        while not done.exists():
            time.sleep(0.1)
    else:
        started = processes.start(path, ["alike", "killed"], workers=2)
        codes, logs = processes.finish(started, path)
        done.write_text(f"{codes}\n{logs}")
    assert "[-9, -9]" in done.read_text(), done.read_text()
    assert (path / "whole_1.npz").exists(), done.read_text()
    return path


def results(folder, name):
    return [dict(np.load(folder / f"{name}_{i}.npz")) for i in range(2)]


@pytest.mark.parametrize("case", runs.CASES)
def test_two_workers_equal_one_device(folder, case):
    reference = runs.CASES[case](tf.distribute.get_strategy())
    for found in results(folder, case):
        different = runs.differences(found, reference)
        assert max(different.values()) < 2e-5, different


@pytest.mark.parametrize("case", runs.CASES)
def test_workers_hold_the_same_bits(folder, case):
    chief, other = results(folder, case)
    for name in chief:
        np.testing.assert_array_equal(chief[name], other[name], name)


def test_datasets_of_different_seeds_are_an_error_on_all_workers(folder):
    for found in results(folder, "unlike_seeds"):
        message = str(found["message"])
        assert "same seed of the dataset on all workers" in message
        assert "Received: [0, 1]. Pass `seed`" in message


def test_keras_itself_still_fails_on_several_workers(folder):
    # Once it does not, `models/multi_worker.py` can go, but for batches with
    # ids.
    for found in results(folder, "stock"):
        assert str(found["message"]) != "no error"


def test_killed_worker_and_the_others_resume_where_they_were(folder):
    started = processes.start(folder, ["resumed"], workers=2)
    codes, logs = processes.finish(started, folder)
    assert codes == [0, 0], logs
    check_resumed(results(folder, "whole"), results(folder, "resumed"))


def test_killed_process_resumes_where_it_was(tmp_path):
    codes, logs = processes.finish(
        processes.start(tmp_path, ["killed"]), tmp_path
    )
    assert codes == [-9], logs
    assert (tmp_path / "whole_0.npz").exists(), logs
    codes, logs = processes.finish(
        processes.start(tmp_path, ["resumed"]), tmp_path
    )
    assert codes == [0], logs
    whole, resumed = (
        [dict(np.load(tmp_path / f"{name}_0.npz"))]
        for name in ("whole", "resumed")
    )
    check_resumed(whole, resumed)


def check_resumed(wholes, resumeds):
    for whole, resumed in zip(wholes, resumeds, strict=True):
        # It did not begin anew: one of three epochs was done.
        assert (whole.pop("epochs"), resumed.pop("epochs")) == (3, 2)
        for name in whole:
            np.testing.assert_array_equal(whole[name], resumed[name], name)
