"""Starts the workers of a test, and shows what they said if they fail."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def start(folder, scenarios, workers=1, script=None):
    """Starts processes that train together, or one alone.

    Args:
        folder: `pathlib.Path`, where they leave results and what they print.
        scenarios: List of strings, what they do.
        workers: Integer, how many.
        script: `pathlib.Path` of what to run in place of `worker`.

    Returns:
        List of `subprocess.Popen`.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(workers)]
    arguments = ["-m", "tests.distribute.worker", str(folder), *scenarios]
    started = []
    for index in range(workers):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if workers > 1:
            task = {"type": "worker", "index": index}
            cluster = {"worker": addresses}
            environment["TF_CONFIG"] = json.dumps(
                {"cluster": cluster, "task": task}
            )
        with open(folder / f"log_{index}.txt", "w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *([script] if script else arguments)],
                    cwd=folder,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def finish(started, folder, seconds=240):
    """Waits for processes; returns their exit codes.

    As soon as one has failed, the others are killed: they would wait for it.

    Args:
        started: List of `subprocess.Popen`.
        folder: `pathlib.Path` as for `start`.
        seconds: Number, after which all are killed.

    Returns:
        Tuple of a list of exit codes, -9 where killed, and all that was
        printed.
    """
    end = time.monotonic() + seconds
    codes = [None]
    while None in codes and not any(codes) and time.monotonic() < end:
        time.sleep(0.1)
        codes = [process.poll() for process in started]
    for process in started:
        process.kill()
        process.wait()
    logs = [
        f"--- worker {i}, exit code {process.returncode}:\n"
        + (folder / f"log_{i}.txt").read_text()
        for i, process in enumerate(started)
    ]
    return [process.returncode for process in started], "\n".join(logs)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
