"""What training costs: the harness of all `speed*` experiments and `scaling`.

Two sides are run in turn: A, B, A, B. The ratio of processor times is the
median over the pairs; that of wall times is the ratio of the two minima, since
these machines are shared. Peak memory is measured in a fresh process.
"""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

# Columns of a table, and their metrics.
TIMES = {
    "processor time": "cpu_ratio",
    "wall time": "wall_ratio",
    "ms": "ms",
    "plain ms": "plain_ms",
}
# Training steps in a measurement.
STEPS = {"cnn": 8, "cnn_bn": 8, "mlp": 100}
PAIRS = (
    "Processor time: median of the pairs' ratios. Wall time: ratio of the "
    "minima."
)


def experiment(name, presets, plan, measures, report):
    """Returns an experiment on costs, which makes its own data.

    `plan` is a function `preset -> list of settings`, without seeds;
    `measures` a dict from the setting `kind` to `settings -> metrics`.
    """

    def stage(preset, records):
        seeds = plans.each("seed", preset["seeds"])
        return plans.grid(seeds, plan(preset))

    def run(settings, data_dir, verbose):
        keras.utils.set_random_seed(settings["seed"])
        return measures[settings["kind"]](settings)

    # Each backend has a table of its own.
    backend = keras.backend.backend()
    name += "" if backend == "tensorflow" else f"_{backend}"
    return runner.Experiment(name, presets, [stage], report, run)


def report(title, describe, columns, notes):
    """Returns the report of `TIMES` and other columns, a row a setting."""

    def make(records):
        shown = {**TIMES, **columns}
        table = render.table(records, {"what": describe}, shown)
        return render.Report(
            title, table, notes, figures.bars(records, describe)
        )

    return make


def compare(a, b, pairs, per):
    """Returns ratios and milliseconds of `a` against `b`, in turn."""
    a(), b()  # The first call traces.
    cpu, wall = in_turn(a, b, pairs)
    ratios, (ours, plain) = cpu[:, 0] / cpu[:, 1], wall.min(axis=0)
    return {
        "cpu_ratio": float(np.median(ratios)),
        "cpu_ratio_quartiles": np.percentile(ratios, [25, 75]).tolist(),
        "wall_ratio": float(ours / plain),
        "ms": float(ours / per * 1e3),
        "plain_ms": float(plain / per * 1e3),
        "pairs": pairs,
    }


def in_turn(a, b, pairs):
    """Returns processor and wall times, both of shape `(pairs, 2)`."""
    times = [(timed(a), timed(b)) for _ in range(pairs)]
    return np.moveaxis(np.array(times), -1, 0)


def timed(function):
    """Returns processor and wall time of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def network(name):
    """Returns a fresh network for 10 classes."""
    return networks.build(name, shape(name), 10)


def shape(name):
    """Returns the shape of a network's inputs."""
    return (784,) if name == "mlp" else (32, 32, 3)


def batch(size, shape):
    """Returns random examples `x, y`."""
    rng = np.random.default_rng(0)
    x = rng.random((size, *shape), "float32")
    return x, rng.integers(0, 10, size)


def repeated(batch, steps=1):
    """Returns a dataset that gives one batch again and again."""
    # Not needed, nor there, with JAX alone.
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch).cache().repeat(steps)


def compiled(model, jit_compile=False, **options):
    """Compiles a model, with options of the optimizer, and returns it."""
    # JAX without it runs one operation after the other.
    jit_compile |= keras.backend.backend() == "jax"
    return networks.compiled(
        model, 0.01, 0.9, jit_compile=jit_compile, **options
    )


def model(name, num_shards=None, jit_compile=False):
    """Returns a compiled network, which learns from shards if it has some."""
    return compiled(networks.bilevel(network(name), num_shards), jit_compile)


def in_fresh_process(name, settings):
    """Returns what `benchmarks.<name>.memory(settings)` measures there."""
    command = [sys.executable, "-m", "benchmarks.costs", name]
    output = subprocess.run(
        [*command, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


def peak_megabytes():
    """Returns the peak memory of this process; Linux only."""
    # `ru_maxrss` of a child begins with its parent's on Linux.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    measured = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    print(json.dumps(measured.memory(json.loads(sys.argv[2]))))
