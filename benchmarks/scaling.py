"""What does a step cost as replicas, shards and the network grow?

Bytes: those that cross replicas, counted in the graph of the train step.
Overhead and memory: Deep Bilevel over plain Keras on the same batch under the
same strategy, one axis at a time from a base. Weak and strong: a step on
several replicas over the same work for each, or the same batch, on one.

All replicas are logical devices that share the cores of one machine. More of
them add no speed: what counts is the processor time that they add.
`--model_table` prints a model of the step on real accelerators instead.
"""

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_bilevel as kb
from benchmarks import figures
from benchmarks import networks
from benchmarks import render
from benchmarks import runner
from benchmarks import speed

REPLICAS = (1, 2, 4)
PRESETS = {
    "quick": {
        "base": {
            "network": "small_cnn",
            "replicas": 2,
            "num_shards": 4,
            "shard_size": 8,
        },
        "axes": {"replicas": [1], "num_shards": [8]},
        "replicas": [2],
        "memory": False,
        "pairs": 3,
        "seeds": [0],
    },
    "paper": {
        "base": {
            "network": "cnn",
            "replicas": 2,
            "num_shards": 8,
            "shard_size": 8,
        },
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
# Training steps in a measurement.
STEPS = {"small_cnn": 20, "cnn": 6, "four_million": 1}
# Shards of the whole batch in strong scaling, and how many of them validate.
STRONG = (16, 4)
# Examples of all replicas where bytes are counted.
SOURCE, TARGET = 64, 16


def _plan(preset, records):
    counts = [
        {"kind": "bytes", "network": "mlp", "replicas": 2, "way": way}
        for way in WAYS
    ]
    points = [{**preset["base"], "axis": "base"}]
    for axis, values in preset["axes"].items():
        points += [
            {**preset["base"], axis: value, "axis": axis} for value in values
        ]
    overhead = [
        {**point, "kind": "overhead", "pairs": preset["pairs"]}
        for point in points
    ]
    scaling = [
        {
            **preset["base"],
            "kind": kind,
            "way": way,
            "replicas": replicas,
            "pairs": preset["pairs"],
        }
        for kind, way, replicas in itertools.product(
            ("weak", "strong"), ("plain", "Deep Bilevel"), preset["replicas"]
        )
    ]
    memory = [{**point, "kind": "memory"} for point in points]
    plan = counts + overhead + scaling + memory * preset["memory"]
    return [
        {**settings, "seed": seed}
        for seed, settings in itertools.product(preset["seeds"], plan)
    ]


def _run(settings, data_dir, verbose):
    del data_dir, verbose  # It makes its own data.
    measure = {
        "bytes": _measure_bytes,
        "overhead": _measure_overhead,
        "weak": _measure_weak,
        "strong": _measure_strong,
        "memory": _measure_memory,
    }
    keras.utils.set_random_seed(settings["seed"])
    return measure[settings["kind"]](settings)


def make_devices():
    """Splits the CPU; nothing may have run before."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * max(REPLICAS),
    )


# Bytes that cross replicas.


def _bilevel(weighting):
    return lambda make: kb.BilevelModel(make(), weighting())


def _co_teaching(make):
    schedule = kb.schedules.CoTeachingSchedule(0.5, t_k=1)
    return kb.SelectionModel(
        [make(), make()], kb.selection.CoTeaching(), schedule
    )


def _deep_bilevel():
    return kb.weighting.DeepBilevel(4)


def _soseleto():
    return kb.weighting.Soseleto(SOURCE, alpha_lr=5.0)


CLIP = {"global_clipnorm": 1.0}
# How to wrap a network, options of the optimizer, what it trains on.
WAYS = {
    "plain": (lambda make: make(), {}, "batch"),
    "Deep Bilevel": (_bilevel(_deep_bilevel), {}, "batch"),
    "SOSELETO": (_bilevel(_soseleto), {}, "source and target"),
    "Learning to Reweight": (
        _bilevel(kb.weighting.LearningToReweight),
        {},
        "source and target",
    ),
    "Co-teaching, two networks": (_co_teaching, {}, "batch"),
    "plain, clipped": (lambda make: make(), CLIP, "batch"),
    "Deep Bilevel, clipped": (_bilevel(_deep_bilevel), CLIP, "batch"),
}


def _measure_bytes(settings):
    wrap, options, feed = WAYS[settings["way"]]
    shape = speed.SHAPES[settings["network"]]
    replicas = settings["replicas"]
    # Its default reduces by collective ops, which show in the graph.
    strategy = tf.distribute.MirroredStrategy(_devices(replicas))
    with strategy.scope():
        model = wrap(lambda: networks.build(settings["network"], shape, 10))
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9, **options),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
    gradient = sum(math.prod(v.shape) for v in model.trainable_variables)
    found = collectives(_graph(model, strategy, _feed(feed, shape)))
    reduced, gathered = (
        [op for op in found if op[0].startswith(name)]
        for name in ("CollectiveReduce", "CollectiveGather")
    )
    # Replicas do the same: what all of them send is that many times one's.
    small = [size for _, size in reduced if size < 4 * gradient]
    total = sum(size for _, size in reduced)
    return {
        "gradient_bytes": 4 * gradient,
        "reduced_bytes": total / replicas,
        "gathered_bytes": sum(size for _, size in gathered) / replicas,
        "small_bytes": sum(small) / replicas,
        "gradients": total / replicas / (4 * gradient),
    }


def _feed(name, shape):
    x, y = speed.batch(SOURCE, shape)
    if name == "batch":
        return x, y
    return (x, y, np.arange(SOURCE)), (x[:TARGET], y[:TARGET])


def _graph(model, strategy, batch):
    """Returns the graph of all that `fit` does in a step; nothing is run."""
    shares = _ready(model, strategy, batch)
    step = tf.function(
        lambda shares: model.train_function([shares]), autograph=False
    )
    return step.get_concrete_function(shares).graph


def _ready(model, strategy, batch):
    """Makes a model ready for its first step and splits a batch for it."""
    dataset = tf.data.Dataset.from_tensors(batch)
    model._maybe_symbolic_build(data_batch=next(iter(dataset)))
    model.make_train_function()
    return next(iter(strategy.experimental_distribute_dataset(dataset)))


def collectives(graph):
    """Returns the collective ops of a graph and of the functions it calls.

    Returns:
        List of pairs of an op's type and the bytes that it is given, one for
        each replica.
    """
    found = []
    for op in graph.get_operations():
        if op.type.startswith("Collective"):
            found.append((op.type, _bytes_of(op.inputs[0])))
        for name in _called(op):
            inner = collectives(graph._get_function(name).graph)
            if inner and op.type in ("While", "StatelessWhile"):
                raise ValueError(f"How often does {op.name} reduce?")
            found += inner
    return found


def _called(op):
    attributes = op.node_def.attr.values()
    return [a.func.name for a in attributes if a.HasField("func")]


def _bytes_of(tensor):
    # Gathering pads to the largest share; here all shares are alike.
    while not tensor.shape.is_fully_defined():
        tensor = tensor.op.inputs[0]
    return tensor.shape.num_elements() * tensor.dtype.size


# Time and memory.


def _devices(replicas):
    return [f"CPU:{i}" for i in range(replicas)]


def _strategy(replicas):
    # The default's collective ops take no two sizes of groups in one process.
    return tf.distribute.MirroredStrategy(
        _devices(replicas),
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _trainer(settings, way):
    """Returns a function that makes some steps under a new strategy."""
    shape = (32, 32, 3)
    shards = settings["num_shards"]
    validation = settings.get("num_validation_shards", 1)
    strategy = _strategy(settings["replicas"])
    with strategy.scope():
        model = networks.build(settings["network"], shape, 10)
        if way == "Deep Bilevel":
            weighting = kb.weighting.DeepBilevel(
                shards, num_validation_shards=validation
            )
            model = kb.BilevelModel(model, weighting)
        speed.compiled(model, {})
    size = settings["replicas"] * shards * settings["shard_size"]
    shares = _ready(model, strategy, speed.batch(size, shape))

    def train():
        # What `fit` does once an epoch would blur so few steps.
        for _ in range(STEPS[settings["network"]]):
            model.train_function([shares])

    return train


def _compare(settings, a, b):
    steps = STEPS[settings["network"]]
    return speed.compare(a, b, settings["pairs"], per=steps)


def _measure_overhead(settings):
    ours, plain = (_trainer(settings, way) for way in ("Deep Bilevel", "plain"))
    return _compare(settings, ours, plain)


def _measure_weak(settings):
    """Each replica does what the one does."""
    several, one = (
        _trainer({**settings, "replicas": count}, settings["way"])
        for count in (settings["replicas"], 1)
    )
    return _per_work(_compare(settings, several, one), settings["replicas"])


def _measure_strong(settings):
    """All replicas together make the step of the one."""
    shards, validation = STRONG
    several, one = (
        _trainer(
            {
                **settings,
                "replicas": count,
                "num_shards": shards // count,
                "num_validation_shards": validation // count,
            },
            settings["way"],
        )
        for count in (settings["replicas"], 1)
    )
    return _per_work(_compare(settings, several, one), 1)


def _per_work(metrics, work):
    return {**metrics, "per_work": metrics["cpu_ratio"] / work}


def _measure_memory(settings):
    """Peak memory over the start, in a fresh process for each way."""
    ours, plain = (
        _memory({**settings, "way": way}) for way in ("Deep Bilevel", "plain")
    )
    return {"peak_mb": ours, "plain_peak_mb": plain}


def _memory(settings):
    command = [sys.executable, "-m", "benchmarks.scaling"]
    output = subprocess.run(
        [*command, f"--memory_of={json.dumps(settings)}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(output.strip().splitlines()[-1])


def print_memory(settings):
    make_devices()
    train = _trainer(settings, settings["way"])
    before = speed.peak_megabytes()
    train()
    train()
    print(speed.peak_megabytes() - before)


# The step on real accelerators, on paper.


@dataclasses.dataclass(frozen=True)
class Network:
    """What the model has to know about a network and its batch.

    Attributes:
        parameters: Float, how many.
        forward: Float, FLOPs of a forward pass of one example.
        shard_size: Integer, examples in a shard.
    """

    parameters: float
    forward: float
    shard_size: int


@dataclasses.dataclass(frozen=True)
class Machine:
    """One accelerator of many, and its link.

    Attributes:
        link: Float, bytes per second that it sends, and receives.
        flops: Float, FLOPs per second that training reaches.
        memory: Float, bytes per second of its own memory.
        hop: Float, seconds of a message of no size to a neighbour.
        overlap: Float in [0, 1], the part of the backward pass that plain
            training's reduction can hide behind.
    """

    link: float
    flops: float = 125e12
    memory: float = 2e12
    hop: float = 5e-6
    overlap: float = 1.0


NETWORKS = {
    "`cnn`, 0.2 M": Network(0.19e6, 16e6, 16),
    "ResNet-50, 25.6 M": Network(25.6e6, 8.2e9, 16),
    # A transformer on 512 tokens: 2 FLOPs for each parameter and token.
    "transformer, 350 M": Network(350e6, 2 * 350e6 * 512, 4),
}
LINKS = {"3 GB/s": 3e9, "25 GB/s": 25e9, "100 GB/s": 100e9}
ACCELERATORS = (8, 64, 512)
SHARDS = 8
# Times that a shard's gradient, or a vector as long, is read or written: its
# norm 1, its product with g_v 2, adding it to the sum 3.
PASSES = 6


def all_reduce(size, accelerators, machine):
    """Returns the seconds of an all-reduce of so many bytes.

    It sends what a ring sends and waits for as many messages as a tree.
    """
    n = accelerators
    return (
        2 * (n - 1) / n * size / machine.link + 2 * math.log2(n) * machine.hop
    )


def model_step(network, accelerators, machine, num_shards=SHARDS):
    """Returns the seconds of a plain step and of one of Deep Bilevel.

    Args:
        network: A `Network`.
        accelerators: Integer.
        machine: A `Machine`.
        num_shards: Integer, shards for each accelerator.

    Returns:
        Tuple of two floats.
    """
    size = 4 * network.parameters
    examples = num_shards * network.shard_size
    # The backward pass is two thirds of it.
    compute = 3 * network.forward * examples / machine.flops
    hidden = machine.overlap * compute * 2 / 3
    reduction = all_reduce(size, accelerators, machine)
    plain = compute + max(0.0, reduction - hidden)
    vectors = num_shards * PASSES * size / machine.memory
    # The sum of |w| for the weights, those of |w| and of w^2 for the logs.
    small = 2 * all_reduce(8, accelerators, machine)
    return plain, compute + vectors + 2 * reduction + small


def model_table():
    """Returns the table of the model, a list of rows."""
    header = ["network", "link", *(f"{n} accelerators" for n in ACCELERATORS)]
    return [header] + [
        [network, link]
        + [
            _model_cell(*model_step(NETWORKS[network], n, Machine(LINKS[link])))
            for n in ACCELERATORS
        ]
        for network, link in itertools.product(NETWORKS, LINKS)
    ]


def _model_cell(plain, ours):
    before, after = (
        f"{1e3 * t:,.0f}" if t > 0.1 else f"{1e3 * t:.2g}"
        for t in (plain, ours)
    )
    return f"{before} → {after} ms, {ours / plain:.2f}"


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
        "Processor time: median of the pairs' ratios. Wall time: ratio of the "
        "minima. Steps of fit's own function, in turn in one process.",
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
LINES = {
    "cpu_ratio": "processor time",
    "wall_ratio": "wall time",
    "peak_mb": "Deep Bilevel",
    "plain_peak_mb": "plain",
}


def _figure(records):
    drawing = Figure(figsize=(15, 6), layout="constrained")
    grid = drawing.subplots(2, len(AXES) + 1, squeeze=False)
    for column, axis in enumerate(AXES):
        overhead = _along(records, "overhead", axis)
        _draw_axis(grid[0, column], overhead, axis, ("cpu_ratio", "wall_ratio"))
        memory = _along(records, "memory", axis)
        _draw_axis(grid[1, column], memory, axis, ("peak_mb", "plain_peak_mb"))
    grid[0, 0].set_ylabel("ratio to plain Keras")
    grid[1, 0].set_ylabel("peak memory, MB")
    for axes, kind in zip(grid[:, -1], ("weak", "strong")):
        _draw_scaling(axes, records, kind)
    for axes in grid.ravel():
        _finish(axes)
    return drawing


def _finish(axes):
    axes.set_visible(bool(axes.lines))
    heights = [y for line in axes.lines for y in line.get_ydata()]
    axes.set_ylim(0, 1.1 * max(heights, default=1.0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _along(records, kind, axis):
    """Returns records of an axis and of its base, in order."""
    found = [
        r
        for r in records
        if r["settings"]["kind"] == kind
        and r["settings"]["axis"] in (axis, "base")
    ]
    return sorted(found, key=lambda r: _place(r["settings"], axis))


def _place(settings, axis):
    value = settings[axis]
    return list(STEPS).index(value) if axis == "network" else value


def _draw_axis(axes, records, axis, metrics):
    if len(records) < 2:
        return
    names = [str(r["settings"][axis]) for r in records]
    for metric, color in zip(metrics, figures.COLORS):
        values = [r["metrics"][metric] for r in records]
        axes.plot(names, values, "o-", color=color, label=LINES[metric])
    axes.set_xlabel(AXES[axis])


def _draw_scaling(axes, records, kind):
    found = [r for r in records if r["settings"]["kind"] == kind]
    groups = render.group(found, lambda s: s["way"])
    # In the colours of the other panels.
    for way, color in zip(sorted(groups), figures.COLORS):
        values = {
            r["settings"]["replicas"]: r["metrics"]["per_work"]
            for r in groups[way]
        }
        names = ["1", *map(str, values)]
        axes.plot(names, [1.0, *values.values()], "o-", color=color, label=way)
    axes.set_title(f"{kind} scaling", fontsize=10)
    axes.set_ylabel("processor time, same work")
    axes.set_xlabel("replicas")


EXPERIMENT = runner.Experiment(
    "scaling",
    PRESETS,
    stages=(_plan,),
    report=_report,
    run=_run,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--model_table"]:
        print(render.as_markdown(model_table()))
    elif sys.argv[1:2] and sys.argv[1].startswith("--memory_of="):
        print_memory(json.loads(sys.argv[1].split("=", 1)[1]))
    else:
        make_devices()
        runner.main(lambda: EXPERIMENT)
