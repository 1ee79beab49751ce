"""What does a weight for every example cost, against plain Keras?

`fit`: a step of SOSELETO or Learning to Reweight over a plain step of Keras on
the same source and target examples together. `ways`: several ways to the
weighted gradient and the alignments, as bare functions over the plain gradient
of the same examples. In turn, as in `speed`; peak memory in a process of its
own.
"""

import itertools
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import render
from benchmarks import runner
from benchmarks import speed
from keras_bilevel.engine import calls

# Network, source and target examples, weighting.
FITS = [
    ("cnn", 128, 16, "soseleto"),
    ("cnn", 128, 32, "soseleto"),
    ("cnn_bn", 128, 32, "soseleto"),
    ("cnn", 128, 32, "reweight"),
    ("mlp", 128, 32, "soseleto"),
]
STEPS = {"cnn": 8, "cnn_bn": 8, "mlp": 100}
WAYS = ["calls", "double", "forward", "vectorised", "one by one"]
# Beyond this, tracing takes minutes.
LARGEST = {"one by one": 64}
TARGET_SIZE = 32
PRESETS = {
    "quick": {"pairs": 5, "sizes": [64], "seeds": [0]},
    "paper": {"pairs": 15, "sizes": [64, 256, 1024], "seeds": [0]},
}
MEMORY = [("cnn", 128, 32, "plain"), ("cnn", 128, 32, "soseleto")]


def _plan(preset, records):
    fits = [
        {
            "kind": "fit",
            "network": network,
            "source_size": source,
            "target_size": target,
            "way": weighting,
            "pairs": preset["pairs"],
        }
        for network, source, target, weighting in FITS
    ]
    ways = [
        {
            "kind": "way",
            "network": "cnn",
            "source_size": size,
            "target_size": TARGET_SIZE,
            "way": way,
            "pairs": preset["pairs"],
        }
        for size, way in itertools.product(preset["sizes"], WAYS)
        if size <= LARGEST.get(way, size)
    ]
    memory = [
        {
            "kind": "memory",
            "network": network,
            "source_size": source,
            "target_size": target,
            "way": way,
        }
        for network, source, target, way in MEMORY
    ]
    return [
        {**settings, "seed": seed}
        for seed, settings in itertools.product(
            preset["seeds"], fits + ways + memory
        )
    ]


def _run(settings, data_dir, verbose):
    del data_dir, verbose  # It makes its own data.
    keras.utils.set_random_seed(settings["seed"])
    measure = {
        "fit": _measure_fit,
        "way": _measure_way,
        "memory": _measure_memory,
    }
    return measure[settings["kind"]](settings)


def _measure_fit(settings):
    steps = STEPS[settings["network"]]
    model, dataset = _model(settings)
    plain, together = _model({**settings, "way": "plain"})
    dataset, together = dataset.repeat(steps), together.repeat(steps)
    return speed.compare(
        lambda: model.fit(dataset, verbose=0),
        lambda: plain.fit(together, verbose=0),
        settings["pairs"],
        per=steps,
    )


def _model(settings):
    """Returns a compiled model and a dataset of one batch."""
    shape = speed.SHAPES[settings["network"]]
    size = settings["source_size"]
    x, y = speed.batch(size + settings["target_size"], shape)
    network = networks.build(settings["network"], shape, 10)
    if settings["way"] == "plain":
        dataset = tf.data.Dataset.from_tensors((x, y)).cache()
        return speed.compiled(network, {}), dataset
    weighting = kb.weighting.LearningToReweight()
    if settings["way"] == "soseleto":
        weighting = kb.weighting.Soseleto(size)
    dataset = tf.data.Dataset.from_tensors(
        ((x[:size], y[:size], np.arange(size)), (x[size:], y[size:]))
    ).cache()
    return speed.compiled(kb.BilevelModel(network, weighting), {}), dataset


def _measure_way(settings):
    shape = speed.SHAPES[settings["network"]]
    size = settings["source_size"]
    x, y = map(tf.constant, speed.batch(size + settings["target_size"], shape))
    network = networks.build(settings["network"], shape, 10)
    way = _WAYS[settings["way"]]

    @tf.function
    def plain():
        return _gradient(network, x, y)

    @tf.function
    def weighted():
        judge = _gradient(network, x[size:], y[size:])
        return way(network, x[:size], y[:size], judge)

    return speed.compare(weighted, plain, settings["pairs"], per=1)


def _losses(network, x, y):
    return keras.losses.sparse_categorical_crossentropy(
        y, network(x, training=True), from_logits=True
    )


def _gradient(network, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(_losses(network, x, y))
    return tape.gradient(loss, _values(network))


def _values(network):
    return [variable.value for variable in network.trainable_variables]


def _calls(network, x, y, judge):
    """What `fit` does where no layer mixes examples."""
    variables = network.trainable_variables
    directions = {id(v): u for v, u in zip(variables, judge)}
    with (
        tf.GradientTape() as tape,
        calls.recorded(network, variables) as recorded,
    ):
        loss = tf.reduce_mean(_losses(network, x, y))
    gradient, deltas = tape.gradient(
        loss, (_values(network), [call.output for call in recorded])
    )
    products = [
        tf.reshape(delta * call.tangent(directions), (len(x), -1))
        for call, delta in zip(recorded, deltas)
    ]
    alignment = tf.add_n([tf.reduce_sum(p, axis=1) for p in products])
    return gradient, alignment * len(x)


def _double(network, x, y, judge):
    """What `fit` does everywhere else."""
    weights = tf.ones(len(x))
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            loss = tf.reduce_mean(_losses(network, x, y) * weights)
        gradient = inner.gradient(loss, _values(network))
        products = [tf.reduce_sum(g * u) for g, u in zip(gradient, judge)]
        projection = tf.add_n(products)
    return gradient, outer.gradient(projection, weights) * len(x)


def _forward(network, x, y, judge):
    with tf.GradientTape() as tape:
        with tf.autodiff.ForwardAccumulator(
            _values(network), judge
        ) as accumulator:
            losses = _losses(network, x, y)
        loss = tf.reduce_mean(losses)
    return tape.gradient(loss, _values(network)), accumulator.jvp(losses)


def _vectorised(network, x, y, judge):
    """Keeps a gradient of every example."""
    each = tf.vectorized_map(
        lambda one: _gradient(network, one[0][None], one[1][None]), (x, y)
    )
    alignments = tf.add_n(
        [
            tf.linalg.matvec(_rows(g), tf.reshape(u, [-1]))
            for g, u in zip(each, judge)
        ]
    )
    return [tf.reduce_mean(g, axis=0) for g in each], alignments


def _rows(gradients):
    return tf.reshape(gradients, (gradients.shape[0], -1))


def _one_by_one(network, x, y, judge):
    """As in the authors' notebook."""
    alignments, total = [], [tf.zeros_like(u) for u in judge]
    for j in range(len(x)):
        one = _gradient(network, x[j : j + 1], y[j : j + 1])
        alignments.append(
            tf.add_n([tf.reduce_sum(g * u) for g, u in zip(one, judge)])
        )
        total = [t + g for t, g in zip(total, one)]
    return [t / len(x) for t in total], tf.stack(alignments)


_WAYS = {
    "calls": _calls,
    "double": _double,
    "forward": _forward,
    "vectorised": _vectorised,
    "one by one": _one_by_one,
}


def _measure_memory(settings):
    """Peak memory over the start and of some steps, in a fresh process."""
    fields = ("network", "source_size", "target_size", "way")
    argument = ",".join(str(settings[field]) for field in fields)
    output = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.speed_examples",
            f"--memory_of={argument}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {"peak_mb": float(output.strip().splitlines()[-1])}


def print_memory(network, source_size, target_size, way):
    model, dataset = _model(
        {
            "network": network,
            "source_size": int(source_size),
            "target_size": int(target_size),
            "way": way,
        }
    )
    before = speed.peak_megabytes()
    model.fit(dataset.repeat(8), verbose=0)
    print(speed.peak_megabytes() - before)


def _describe(settings):
    sizes = f"{settings['source_size']} + {settings['target_size']}"
    kind = "" if settings["kind"] == "way" else f"{settings['kind']}, "
    return f"{kind}{settings['way']}, {settings['network']}, {sizes}"


def _report(records):
    columns = {
        "processor time": "cpu_ratio",
        "wall time": "wall_ratio",
        "ms": "ms",
        "plain ms": "plain_ms",
        "peak MB": "peak_mb",
    }
    notes = [
        "fit: `BilevelModel.fit` over plain `fit` on the same source and "
        "target examples. The others: the weighted gradient and all "
        "alignments, as a bare function, over the plain gradient of the same "
        "examples. calls and double are what the package does (without and "
        "with layers that mix examples); one by one is a backward pass for "
        "each example.",
        "Vectorised: `tf.vectorized_map`, a gradient of every example in "
        "memory. One by one up to 64 examples: beyond, tracing takes minutes.",
        "Processor time: median of the pairs' ratios. Wall time: ratio of the "
        "minima. Runs in turn in one process. Peak MB: over the start, a "
        "process each (Linux), first step included.",
    ]
    return render.Report(
        "Cost of a weight for every example",
        render.table(records, {"what": _describe}, columns),
        notes,
        speed.figure(
            [r for r in records if "cpu_ratio" in r["metrics"]], _describe
        ),
    )


EXPERIMENT = runner.Experiment(
    "speed_examples",
    PRESETS,
    stages=(_plan,),
    report=_report,
    run=_run,
)

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--memory_of="):
        print_memory(*sys.argv[1].split("=")[1].split(","))
    else:
        runner.main(lambda: EXPERIMENT)
