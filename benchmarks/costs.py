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
import tensorflow as tf
from matplotlib.figure import Figure

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
        return render.Report(title, table, notes, bars(records, describe))

    return make


def compare(a, b, pairs, per):
    """Returns ratios and milliseconds of `a` against `b`, in turn."""
    a(), b()  # The first call traces.
    measured = np.array([(_time(a), _time(b)) for _ in range(pairs)])
    cpu, wall = np.moveaxis(measured, -1, 0)
    ratios, (ours, plain) = cpu[:, 0] / cpu[:, 1], wall.min(axis=0)
    return {
        "cpu_ratio": float(np.median(ratios)),
        "cpu_ratio_quartiles": np.percentile(ratios, [25, 75]).tolist(),
        "wall_ratio": float(ours / plain),
        "ms": float(ours / per * 1e3),
        "plain_ms": float(plain / per * 1e3),
        "pairs": pairs,
    }


def _time(function):
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
    return tf.data.Dataset.from_tensors(batch).cache().repeat(steps)


def compiled(model, jit_compile=False, **options):
    """Compiles a model, with options of the optimizer, and returns it."""
    # JAX without it runs one operation after the other.
    jit_compile |= keras.backend.backend() == "jax"
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, **options),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return model


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


def bars(records, describe):
    """Draws the ratios of the records, where they have some."""
    records = [r for r in records if "cpu_ratio" in r["metrics"]]
    figure = Figure(figsize=(7, 1 + 0.3 * len(records)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(records))
    for shift, metric in ((-0.2, "cpu_ratio"), (0.2, "wall_ratio")):
        ratios = render.values(records, metric)
        axes.barh(places + shift, ratios, 0.4, label=metric)
    axes.axvline(1.0, color="black", linewidth=0.8)
    names = [describe(record["settings"]) for record in records]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="ratio to plain Keras (lower is better)")
    axes.legend()
    return figure


if __name__ == "__main__":
    measured = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    print(json.dumps(measured.memory(json.loads(sys.argv[2]))))
