"""What does a step cost as replicas, shards and the network grow?

Bytes: those that cross replicas, counted in the graph of the train step.
Overhead and memory: Deep Bilevel over plain Keras on the same batch under the
same strategy, one axis at a time from a base. Weak and strong: a step on
several replicas over the same work for each, or the same batch, on one.

All replicas are logical devices that share the cores of one machine. More of
them add no speed: what counts is the processor time that they add.
`--model_table` prints a model of the step on real accelerators instead.
"""

import math
import sys

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_bilevel as kb
from benchmarks import accelerators
from benchmarks import collectives
from benchmarks import costs
from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

_BASE = {"replicas": 2, "shard_size": 8}
PRESETS = {
    "quick": {
        "base": {**_BASE, "network": "small_cnn", "num_shards": 4},
        "axes": {"replicas": [1], "num_shards": [8]},
        "replicas": [2],
        "memory": False,
        "pairs": 3,
        "seeds": [0],
    },
    "paper": {
        "base": {**_BASE, "network": "cnn", "num_shards": 8},
        "axes": {
            "replicas": [1, 4],
            "num_shards": [4, 32],
            "shard_size": [4, 32],
            "network": ["small_cnn", "four_million"],
        },
        "replicas": [2, 4],
        "memory": True,
        "pairs": 15,
        "seeds": [0],
    },
}
MOST_REPLICAS = 4
# Training steps in a measurement, by the size of the network.
STEPS = {"small_cnn": 20, "cnn": 6, "four_million": 1}
# Shards of the whole batch in strong scaling, and how many of them validate.
STRONG = (16, 4)
# Examples of all replicas where bytes are counted.
SOURCE, TARGET = 64, 16


def _plan(preset):
    base, pairs = preset["base"], [{"pairs": preset["pairs"]}]
    points = [{**base, "axis": "base"}]
    for axis, values in preset["axes"].items():
        points += [{**base, axis: value, "axis": axis} for value in values]
    counts = plans.grid(
        [{"kind": "bytes", "network": "mlp", "replicas": 2}],
        plans.each("way", WAYS),
    )
    overhead = plans.grid(plans.each("kind", ["overhead"]), points, pairs)
    scaling = plans.grid(
        [base],
        plans.each("kind", ["weak", "strong"]),
        plans.each("way", ["plain", "Deep Bilevel"]),
        plans.each("replicas", preset["replicas"]),
        pairs,
    )
    memory = plans.grid(plans.each("kind", ["memory"]), points)
    return counts + overhead + scaling + memory * preset["memory"]


def make_devices():
    """Splits the CPU; nothing may have run before."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * MOST_REPLICAS,
    )


def _devices(replicas):
    return [f"CPU:{i}" for i in range(replicas)]


# Bytes that cross replicas.


def _plain(make):
    return make()


def _bilevel(weighting):
    return lambda make: kb.BilevelModel(make(), weighting())


def _co_teaching(make):
    schedule = kb.schedules.CoTeachingSchedule(0.5, t_k=1)
    rule = kb.selection.CoTeaching()
    return kb.SelectionModel([make(), make()], rule, schedule)


_deep_bilevel = _bilevel(lambda: kb.weighting.DeepBilevel(4))
_soseleto = _bilevel(lambda: kb.weighting.Soseleto(SOURCE, alpha_lr=5.0))
_reweight = _bilevel(kb.weighting.LearningToReweight)
CLIP = {"global_clipnorm": 1.0}
# How to wrap a network, options of the optimizer, whether it takes a target.
WAYS = {
    "plain": (_plain, {}, False),
    "Deep Bilevel": (_deep_bilevel, {}, False),
    "SOSELETO": (_soseleto, {}, True),
    "Learning to Reweight": (_reweight, {}, True),
    "Co-teaching, two networks": (_co_teaching, {}, False),
    "plain, clipped": (_plain, CLIP, False),
    "Deep Bilevel, clipped": (_deep_bilevel, CLIP, False),
}


def _bytes(settings):
    wrap, options, has_target = WAYS[settings["way"]]
    name, replicas = settings["network"], settings["replicas"]
    # Its default reduces by collective ops, which show in the graph.
    strategy = tf.distribute.MirroredStrategy(_devices(replicas))
    with strategy.scope():
        model = wrap(lambda: costs.network(name))
        costs.compiled(model, **options)
    x, y = batch = costs.batch(SOURCE, costs.shape(name))
    if has_target:
        batch = (x, y, np.arange(SOURCE)), (x[:TARGET], y[:TARGET])
    gradient = 4 * sum(math.prod(v.shape) for v in model.trainable_variables)
    found = collectives.of_step(model, strategy, batch)
    reduced, gathered = (
        [size for kind, size in found if kind.startswith(ops)]
        for ops in ("CollectiveReduce", "CollectiveGather")
    )
    # Replicas do the same: what all of them send is that many times one's.
    return {
        "gradient_bytes": gradient,
        "reduced_bytes": sum(reduced) / replicas,
        "gathered_bytes": sum(gathered) / replicas,
        "small_bytes": sum(s for s in reduced if s < gradient) / replicas,
        "gradients": sum(reduced) / replicas / gradient,
    }


# Time and memory.


def _trainer(settings):
    """Returns a function that makes some steps under a new strategy."""
    name, shards = settings["network"], settings["num_shards"]
    strategy = tf.distribute.MirroredStrategy(
        _devices(settings["replicas"]),
        # The default's take no two sizes of groups in one process.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    with strategy.scope():
        model = costs.network(name)
        if settings["way"] == "Deep Bilevel":
            validation = settings.get("num_validation_shards", 1)
            model = networks.bilevel(model, shards, validation)
        costs.compiled(model)
    size = settings["replicas"] * shards * settings["shard_size"]
    batch = costs.batch(size, costs.shape(name))
    shares = collectives.ready(model, strategy, batch)

    def train():
        # What `fit` does once an epoch would blur so few steps.
        for _ in range(STEPS[name]):
            model.train_function([shares])

    return train


def _compare(settings, *sides):
    """Times two sides, each with other changes of the settings."""
    ours, plain = (_trainer({**settings, **side}) for side in sides)
    steps = STEPS[settings["network"]]
    return costs.compare(ours, plain, settings["pairs"], per=steps)


def _overhead(settings):
    return _compare(settings, {"way": "Deep Bilevel"}, {"way": "plain"})


def _weak(settings):
    """Each replica does what the one does."""
    metrics = _compare(settings, {}, {"replicas": 1})
    ratio = metrics["cpu_ratio"] / settings["replicas"]
    return {**metrics, "per_work": ratio}


def _strong(settings):
    """All replicas together make the step of the one."""
    shards, validation = STRONG
    several, one = (
        {
            "replicas": count,
            "num_shards": shards // count,
            "num_validation_shards": validation // count,
        }
        for count in (settings["replicas"], 1)
    )
    metrics = _compare(settings, several, one)
    return {**metrics, "per_work": metrics["cpu_ratio"]}


def _memory_of_both(settings):
    ours, plain = (
        costs.in_fresh_process("scaling", {**settings, "way": way})["peak_mb"]
        for way in ("Deep Bilevel", "plain")
    )
    return {"peak_mb": ours, "plain_peak_mb": plain}


def memory(settings):
    """Measures the peak memory over the start of one way."""
    make_devices()
    train = _trainer(settings)
    before = costs.peak_megabytes()
    train()
    train()
    return {"peak_mb": costs.peak_megabytes() - before}


# The report.


def _describe(settings):
    kind = settings["kind"]
    if kind == "bytes":
        return f"bytes, {settings['way']}"
    count = settings["replicas"]
    replicas = "1 replica" if count == 1 else f"{count} replicas"
    name = f"{kind}, {settings['network']}, {replicas}"
    if kind in ("weak", "strong"):
        return f"{name}, {settings['way']}"
    return f"{name} of {settings['num_shards']} × {settings['shard_size']}"


def _report(records):
    columns = {
        "processor time": "cpu_ratio",
        "for the same work": "per_work",
        "wall time": "wall_ratio",
        "ms": "ms",
        "other's ms": "plain_ms",
        "peak MB": "peak_mb",
        "plain peak MB": "plain_peak_mb",
        "reduced, in gradients": "gradients",
        "beside them, bytes": "small_bytes",
        "gathered, bytes": "gathered_bytes",
    }
    notes = [
        "Replicas are logical devices that share one machine's cores: wall "
        "time says little, processor time is what counts.",
        "Bytes: what one of two replicas gives to all collective ops of the "
        "train step's graph, in gradients of all that is trained; beside "
        f"them, what is smaller than a gradient. {SOURCE} examples of both "
        "replicas. Clipped: with `global_clipnorm`.",
        "Overhead, memory: Deep Bilevel over plain Keras on the same batch "
        "under the same strategy, shards × examples for each replica. Peak "
        "MB: over the start, a process each (Linux), first step included.",
        "Weak: over one replica with the same work for each. Strong: over "
        f"one replica with the same batch of {STRONG[0]} shards, {STRONG[1]} "
        "of which validate. For the same work: processor time over that of "
        "one replica, for each example; 1 is perfect.",
        f"{costs.PAIRS} Steps of fit's own function, in turn in one process.",
    ]
    return render.Report(
        "Cost of a step as replicas, shards and the network grow",
        render.table(records, {"what": _describe}, columns),
        notes,
        _figure(records),
    )


AXES = {
    "replicas": "replicas",
    "num_shards": "shards of a replica, k",
    "shard_size": "examples of a shard",
    "network": "network",
}
RATIOS = {"cpu_ratio": "processor time", "wall_ratio": "wall time"}
PEAKS = {"peak_mb": "Deep Bilevel", "plain_peak_mb": "plain"}


def _figure(records):
    kinds = render.group(records, "kind")
    figure = Figure(figsize=(15, 6), layout="constrained")
    grid = figure.subplots(2, len(AXES) + 1, squeeze=False)
    for axis, (above, below) in zip(AXES, grid.T):
        _draw_axis(above, kinds["overhead"], axis, RATIOS)
        _draw_axis(below, kinds.get("memory", []), axis, PEAKS)
    grid[0, 0].set_ylabel("ratio to plain Keras")
    grid[1, 0].set_ylabel("peak memory, MB")
    for axes, kind in zip(grid[:, -1], ("weak", "strong")):
        _draw_scaling(axes, kinds[kind], kind)
    for axes in grid.ravel():
        axes.set_visible(bool(axes.lines))
        heights = [y for line in axes.lines for y in line.get_ydata()]
        axes.set_ylim(0, 1.1 * max(heights, default=1.0))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def _draw_axis(axes, records, axis, metrics):
    """Draws the base and what differs from it on one axis, in order."""

    def place(record):
        value = record["settings"][axis]
        return list(STEPS).index(value) if axis == "network" else value

    found = [r for r in records if r["settings"]["axis"] in (axis, "base")]
    if len(found) < 2:
        return
    found.sort(key=place)
    names = [str(record["settings"][axis]) for record in found]
    for (metric, label), color in zip(metrics.items(), figures.COLORS):
        values = render.values(found, metric)
        axes.plot(names, values, "o-", color=color, label=label)
    axes.set_xlabel(AXES[axis])


def _draw_scaling(axes, records, kind):
    groups = render.group(records, "way")
    # In the colours of the other panels.
    for way, color in zip(sorted(groups), figures.COLORS):
        counts = [str(r["settings"]["replicas"]) for r in groups[way]]
        ratios = render.values(groups[way], "per_work")
        names, values = ["1", *counts], [1.0, *ratios]
        axes.plot(names, values, "o-", color=color, label=way)
    axes.set_title(f"{kind} scaling", fontsize=10)
    axes.set_ylabel("processor time, same work")
    axes.set_xlabel("replicas")


EXPERIMENT = costs.experiment(
    "scaling",
    PRESETS,
    _plan,
    {
        "bytes": _bytes,
        "overhead": _overhead,
        "weak": _weak,
        "strong": _strong,
        "memory": _memory_of_both,
    },
    _report,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--model_table"]:
        print(render.as_markdown(accelerators.model_table()))
    else:
        make_devices()
        runner.main(EXPERIMENT)
