"""What does a weight for every example cost, against plain Keras?

`fit`: a step of SOSELETO or Learning to Reweight over a plain step of Keras on
the same source and target examples together. `way`: several ways to the
weighted gradient and the alignments, as bare functions over the plain gradient
of the same examples. See `costs` and `alignments`.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from benchmarks import alignments
from benchmarks import costs
from benchmarks import plans
from benchmarks import runner

FIELDS = ("kind", "network", "source_size", "target_size", "way")
FITS = [
    ("fit", "cnn", 128, 16, "soseleto"),
    ("fit", "cnn", 128, 32, "soseleto"),
    ("fit", "cnn_bn", 128, 32, "soseleto"),
    ("fit", "cnn", 128, 32, "reweight"),
    ("fit", "mlp", 128, 32, "soseleto"),
]
MEMORY = [
    ("memory", "cnn", 128, 32, "plain"),
    ("memory", "cnn", 128, 32, "soseleto"),
]
# Beyond this, tracing takes minutes.
LARGEST = {"one by one": 64}
PRESETS = {
    "quick": {"pairs": 5, "sizes": [64], "seeds": [0]},
    "paper": {"pairs": 15, "sizes": [64, 256, 1024], "seeds": [0]},
}


def _plan(preset):
    ways = [
        ("way", "cnn", size, 32, way)
        for size in preset["sizes"]
        for way in alignments.WAYS
        if size <= LARGEST.get(way, size)
    ]
    # The ways are written with TensorFlow.
    has_ways = keras.backend.backend() == "tensorflow"
    timed = [dict(zip(FIELDS, row)) for row in FITS + has_ways * ways]
    pairs = plans.each("pairs", [preset["pairs"]])
    return plans.grid(timed, pairs) + [dict(zip(FIELDS, m)) for m in MEMORY]


def _fit(settings):
    steps = costs.STEPS[settings["network"]]
    model, dataset = _model(settings, steps)
    plain, together = _model({**settings, "way": "plain"}, steps)
    return costs.compare(
        lambda: model.fit(dataset, verbose=0),
        lambda: plain.fit(together, verbose=0),
        settings["pairs"],
        per=steps,
    )


def _batch(settings):
    size = settings["source_size"]
    shape = costs.shape(settings["network"])
    return size, *costs.batch(size + settings["target_size"], shape)


def _model(settings, steps):
    """Returns a compiled model and its batch, so many times."""
    size, x, y = _batch(settings)
    network = costs.network(settings["network"])
    if settings["way"] == "plain":
        return costs.compiled(network), costs.repeated((x, y), steps)
    weighting = kb.weighting.LearningToReweight()
    if settings["way"] == "soseleto":
        weighting = kb.weighting.Soseleto(size)
    model = costs.compiled(kb.BilevelModel(network, weighting))
    source, target = (x[:size], y[:size], np.arange(size)), (x[size:], y[size:])
    return model, costs.repeated((source, target), steps)


def _way(settings):
    size, x, y = _batch(settings)
    x, y = tf.constant(x), tf.constant(y)
    network = costs.network(settings["network"])
    way = alignments.WAYS[settings["way"]]

    @tf.function
    def plain():
        return alignments.mean_gradient(network, x, y)

    @tf.function
    def weighted():
        judge = alignments.mean_gradient(network, x[size:], y[size:])
        return way(network, x[:size], y[:size], judge)

    return costs.compare(weighted, plain, settings["pairs"], per=1)


def memory(settings):
    """Measures peak memory over the start and of some steps."""
    model, dataset = _model(settings, 8)
    before = costs.peak_megabytes()
    model.fit(dataset, verbose=0)
    return {"peak_mb": costs.peak_megabytes() - before}


def describe(settings):
    sizes = f"{settings['source_size']} + {settings['target_size']}"
    kind = "" if settings["kind"] == "way" else f"{settings['kind']}, "
    return f"{kind}{settings['way']}, {settings['network']}, {sizes}"


REPORT = costs.report(
    "Cost of a weight for every example",
    describe,
    {"peak MB": "peak_mb"},
    [
        "fit: `BilevelModel.fit` over plain `fit` on the same source and "
        "target examples. The others: the weighted gradient and all "
        "alignments, as a bare function, over the plain gradient of the same "
        "examples. calls and double are what the package does (without and "
        "with layers that mix examples); one by one is a backward pass for "
        "each example.",
        "Vectorised: `tf.vectorized_map`, a gradient of every example in "
        "memory. One by one up to 64 examples: beyond, tracing takes minutes.",
        f"{costs.PAIRS} Runs in turn in one process. Peak MB: over the start, "
        "a process each (Linux), first step included.",
    ],
)
EXPERIMENT = costs.experiment(
    "speed_examples",
    PRESETS,
    _plan,
    {
        "fit": _fit,
        "way": _way,
        "memory": lambda s: costs.in_fresh_process("speed_examples", s),
    },
    REPORT,
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
