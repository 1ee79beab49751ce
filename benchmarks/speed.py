"""What does a step of Deep Bilevel Learning cost, against plain Keras?

Both sides are trained by `fit` on the same super-batch, in turn: A, B, A, B.
The ratio of processor times is the median over the pairs, the ratio of wall
times that of the two minima, since these machines are shared. Peak memory is
measured in a process of its own for each number of shards.
"""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import render
from benchmarks import runner

SHAPES = {"mlp": (784,), "cnn": (32, 32, 3), "cnn_bn": (32, 32, 3)}
PRESETS = {
    "quick": {"pairs": 5, "seeds": [0]},
    "paper": {"pairs": 15, "seeds": [0]},
}
STEPS = [
    # Network, shards, examples per shard, steps per measurement, XLA.
    ("cnn", 8, 16, 8, False),
    ("cnn_bn", 8, 16, 8, False),
    ("mlp", 8, 8, 100, False),
    ("mlp", 32, 8, 50, False),
    ("cnn", 32, 4, 8, False),
    ("mlp", 8, 8, 100, True),
]
# Four million parameters, 128 examples in a super-batch.
MEMORY = {"network": "four_million", "batch_size": 128, "num_shards": [4, 32]}


def _plan(preset, records):
    steps = [
        {
            "kind": "step",
            "network": network,
            "num_shards": shards,
            "shard_size": size,
            "steps": steps,
            "jit_compile": jit,
        }
        for network, shards, size, steps, jit in STEPS
    ]
    feeds = [
        {"kind": "pipeline", "source": source, "dtype": dtype}
        for source in ("arrays", "stream")
        for dtype in ("uint8", "float32")
    ]
    pairs = [{**s, "pairs": preset["pairs"]} for s in steps + feeds]
    memory = [
        {
            "kind": "memory",
            "network": MEMORY["network"],
            "num_shards": shards,
            "shard_size": MEMORY["batch_size"] // shards,
        }
        for shards in MEMORY["num_shards"]
    ]
    return [
        {**settings, "seed": seed}
        for seed, settings in itertools.product(preset["seeds"], pairs + memory)
    ]


def _run(settings, data_dir, verbose):
    del data_dir, verbose  # It makes its own data.
    measure = {
        "step": _measure_step,
        "pipeline": _measure_pipeline,
        "memory": _measure_memory,
    }
    keras.utils.set_random_seed(settings["seed"])
    return measure[settings["kind"]](settings)


def _measure_step(settings):
    shape = SHAPES[settings["network"]]
    examples = batch(settings["num_shards"] * settings["shard_size"], shape)
    dataset = tf.data.Dataset.from_tensors(examples).cache()
    dataset = dataset.repeat(settings["steps"])
    plain = compiled(networks.build(settings["network"], shape, 10), settings)
    weighting = kb.weighting.DeepBilevel(settings["num_shards"])
    inner = networks.build(settings["network"], shape, 10)
    model = compiled(kb.BilevelModel(inner, weighting), settings)
    return compare(
        lambda: model.fit(dataset, verbose=0),
        lambda: plain.fit(dataset, verbose=0),
        settings["pairs"],
        per=settings["steps"],
    )


def _measure_pipeline(settings):
    shape, size = (32, 32, 3), 50_000
    rng = np.random.default_rng(settings["seed"])
    x = rng.integers(0, 256, (size, *shape), "uint8")
    x = x.astype(settings["dtype"])
    y = rng.integers(0, 10, size)
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    source = (x, y) if settings["source"] == "arrays" else examples
    ours = kb.data.stratified_batches(source, num_shards=8, shard_size=16)
    plain = examples.shuffle(10_000).batch(128, drop_remainder=True)
    plain = plain.prefetch(2)
    return compare(
        lambda: _drain(ours),
        lambda: _drain(plain),
        settings["pairs"],
        per=1,
    )


def _drain(dataset):
    for _ in dataset:
        pass


def compare(a, b, pairs, per):
    """Returns ratios and milliseconds of `a` against `b`, in turn."""
    a(), b()  # The first call traces.
    measured = np.array([(_time(a), _time(b)) for _ in range(pairs)])
    cpu, wall = measured[..., 0], measured[..., 1]
    return {
        "cpu_ratio": float(np.median(cpu[:, 0] / cpu[:, 1])),
        "cpu_ratio_quartiles": np.percentile(
            cpu[:, 0] / cpu[:, 1], [25, 75]
        ).tolist(),
        "wall_ratio": float(wall[:, 0].min() / wall[:, 1].min()),
        "ms": float(wall[:, 0].min() / per * 1e3),
        "plain_ms": float(wall[:, 1].min() / per * 1e3),
        "pairs": pairs,
    }


def _time(function):
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def _measure_memory(settings):
    """Peak memory over the start and trace time, in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed",
        f"--memory_of={settings['num_shards']},{settings['shard_size']}",
    ]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout
    megabytes, seconds = output.strip().splitlines()[-1].split()
    return {"peak_mb": float(megabytes), "first_step": float(seconds)}


def print_memory(num_shards, shard_size):
    shape = (32, 32, 3)
    inner = networks.build(MEMORY["network"], shape, 10)
    weighting = kb.weighting.DeepBilevel(num_shards)
    model = compiled(kb.BilevelModel(inner, weighting), {})
    examples = batch(num_shards * shard_size, shape)
    dataset = tf.data.Dataset.from_tensors(examples).cache()
    before = peak_megabytes()
    start = time.perf_counter()
    model.fit(dataset, verbose=0)
    seconds = time.perf_counter() - start
    model.fit(dataset.repeat(6), verbose=0)
    print(peak_megabytes() - before, seconds)


def peak_megabytes():
    # `ru_maxrss` of a child begins with its parent's on Linux.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = int(status.split("VmHWM:")[1].split()[0])
    return kilobytes / 1024


def batch(size, shape):
    rng = np.random.default_rng(0)
    x = rng.random((size, *shape), "float32")
    return x, rng.integers(0, 10, size)


def compiled(model, settings):
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings.get("jit_compile", False),
    )
    return model


def _describe(settings):
    if settings["kind"] == "pipeline":
        return f"pipeline from {settings['source']}, {settings['dtype']}"
    text = (
        f"{settings['kind']} of {settings['network']}, "
        f"{settings['num_shards']} shards of {settings['shard_size']}"
    )
    return text + (", XLA" if settings.get("jit_compile") else "")


def _report(records):
    columns = {
        "processor time": "cpu_ratio",
        "wall time": "wall_ratio",
        "ms": "ms",
        "plain ms": "plain_ms",
        "peak MB": "peak_mb",
        "first step, s": "first_step",
    }
    notes = [
        "Step: BilevelModel.fit over plain fit on the same super-batch. "
        "Pipeline: stratified_batches over shuffle().batch().prefetch(), "
        "50,000 images of 32x32x3, 8 shards of 16; ms for an epoch.",
        "Processor time: median of the pairs' ratios. Wall time: ratio of the "
        "minima. Runs in turn in one process.",
        "Peak MB: over the start, a process each (Linux), 4 million parameters "
        "and 128 examples. First step: with tracing.",
    ]
    return render.Report(
        "Cost of a step, of memory and of the pipeline",
        render.table(records, {"what": _describe}, columns),
        notes,
        figure([r for r in records if "cpu_ratio" in r["metrics"]], _describe),
    )


def figure(records, describe):
    """Draws the ratios of the records as bars."""
    drawing = Figure(figsize=(7, 1 + 0.3 * len(records)), layout="constrained")
    axes = drawing.subplots()
    names = [describe(r["settings"]) for r in records]
    places = np.arange(len(names))
    for shift, metric in ((-0.2, "cpu_ratio"), (0.2, "wall_ratio")):
        heights = [r["metrics"][metric] for r in records]
        axes.barh(places + shift, heights, 0.4, label=metric)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="ratio to plain Keras (lower is better)")
    axes.legend()
    return drawing


EXPERIMENT = runner.Experiment(
    "speed",
    PRESETS,
    stages=(_plan,),
    report=_report,
    run=_run,
)

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--memory_of="):
        print_memory(*map(int, sys.argv[1].split("=")[1].split(",")))
    else:
        runner.main(lambda: EXPERIMENT)
