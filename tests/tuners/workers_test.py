"""A chief and two workers, processes of their own; one of them is killed."""

import os
import socket
import subprocess
import sys

import numpy as np

from tests.tuners import tools

PROCESS = """
import sys, time
import keras_tuner
from tests.tuners import tools

class Tuner(tools.DistanceTuner):
    def run_trial(self, trial, **kwargs):
        print("begins", trial.trial_id, flush=True)
        # The first worker is killed in its second trial.
        slow = self.tuner_id == "worker1" and int(trial.trial_id) > 1
        time.sleep(600 if slow else 0.05)
        value = super().run_trial(trial, **kwargs)
        if self.epochs[-1] < tools.EPOCHS:
            print("stops", trial.trial_id, flush=True)
        return value

Tuner(
    directory=sys.argv[1],
    objective=tools.OBJECTIVE,
    max_trials=16,
    worker_timeout=2.0,
    stop_below=0.5,
    seed=3,
).search(verbose=0)
"""


def start(directory, port, name):
    environment = {
        "KERASTUNER_TUNER_ID": name,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
        "PYTHONPATH": os.getcwd(),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROCESS, directory],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def begun(lines):
    """The trials that a worker has begun, as it says so."""
    for line in lines:
        if line.startswith("begins"):
            yield int(line.split()[1])


def test_no_trial_is_lost_with_its_worker(tmp_path):
    port = free_port()
    names = ("chief", "worker1", "worker2")
    chief, first, second = (start(tmp_path, port, name) for name in names)
    try:
        lost = next(trial for trial in begun(first.stdout) if trial > 1)
        first.kill()
        lines = list(second.stdout)
        assert second.wait(60) == 0
        assert chief.wait(60) == 0
    finally:
        for process in (chief, first, second):
            process.kill()
            process.wait()
            process.stdout.close()
    assert lost in begun(lines)
    # The chief knows what the first one's trials came to as well.
    assert any(line.startswith("stops") for line in lines)
    oracle = tools.tuner(tmp_path, max_trials=16).oracle
    oracle.reload()
    assert sorted(oracle.end_order) == [f"{i:02d}" for i in range(16)]
    assert all(np.isfinite(result.value) for result in oracle.results())
    assert len(oracle.thetas) == 5
