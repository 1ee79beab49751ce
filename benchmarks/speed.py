"""What does a step of Deep Bilevel Learning cost, against plain Keras?

Both sides are trained by `fit` on the same super-batch, see `costs`. `besides`
is what `fit` does besides its steps.
"""

import functools
import time

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from benchmarks import costs
from benchmarks import plans
from benchmarks import runner

PRESETS = {
    "quick": {"pairs": 5, "seeds": [0]},
    "paper": {"pairs": 15, "seeds": [0]},
}
FIELDS = ("network", "num_shards", "shard_size", "steps", "jit_compile")
STEPS = [
    ("cnn", 8, 16, 8, False),
    ("cnn_bn", 8, 16, 8, False),
    ("mlp", 8, 8, 100, False),
    ("mlp", 32, 8, 50, False),
    ("cnn", 32, 4, 8, False),
    ("cnn_bn", 32, 4, 8, False),
    ("mobilenet_v2", 8, 16, 4, False),
    ("mobilenet_v2", 32, 4, 4, False),
    ("mlp", 8, 8, 100, True),
]
# An epoch of one step, which takes little itself: with more of them, `fit`
# and its steps would differ by less than their noise.
BESIDES = ("mlp", 8, 8, 1, False)
# 128 examples in a super-batch; without shards it is plain Keras.
MEMORY = [
    ("four_million", 4, 32),
    ("four_million", 32, 4),
    ("mobilenet_v2", 8, 16),
    ("mobilenet_v2", 32, 4),
    ("mobilenet_v2", None, 128),
]


def _plan(preset):
    steps = [{"kind": "step", **dict(zip(FIELDS, row))} for row in STEPS]
    feeds = plans.grid(
        [{"kind": "pipeline"}],
        plans.each("source", ["arrays", "stream"]),
        plans.each("dtype", ["uint8", "float32"]),
    )
    memory = [{"kind": "memory", **dict(zip(FIELDS, row))} for row in MEMORY]
    # Keras calls its step in another way with JAX.
    is_tensorflow = keras.backend.backend() == "tensorflow"
    besides = is_tensorflow * [
        {"kind": "besides", **dict(zip(FIELDS, BESIDES))}
    ]
    timed = [{**s, "pairs": preset["pairs"]} for s in steps + feeds + besides]
    return timed + memory


def _batch(settings):
    size = (settings["num_shards"] or 1) * settings["shard_size"]
    return costs.batch(size, costs.shape(settings["network"]))


def _step(settings):
    dataset = costs.repeated(_batch(settings), settings["steps"])
    name, jit_compile = settings["network"], settings["jit_compile"]
    plain = costs.model(name, None, jit_compile)
    model = costs.model(name, settings["num_shards"], jit_compile)
    return costs.compare(
        lambda: model.fit(dataset, verbose=0),
        lambda: plain.fit(dataset, verbose=0),
        settings["pairs"],
        per=settings["steps"],
    )


def _besides(settings):
    """Times `fit` less as many calls of its compiled step."""
    dataset = costs.repeated(_batch(settings), settings["steps"])
    calls = []
    for num_shards in settings["num_shards"], None:
        model = costs.model(settings["network"], num_shards)
        calls += [functools.partial(model.fit, dataset, verbose=0)]
        calls += [functools.partial(_steps_alone, model, dataset)]
    for call in calls:
        call()  # The first call traces.
    pairs = settings["pairs"]
    times = np.array([[costs.timed(c) for c in calls] for _ in range(pairs)])
    besides = np.median(times[:, ::2] - times[:, 1::2], axis=0)
    (cpu, wall), (plain_cpu, plain_wall) = besides / settings["steps"]
    return {
        "cpu_ratio": float(cpu / plain_cpu),
        "wall_ratio": float(wall / plain_wall),
        "ms": float(wall * 1e3),
        "plain_ms": float(plain_wall * 1e3),
        "pairs": pairs,
    }


def _steps_alone(model, dataset):
    batches = iter(dataset)
    for _ in range(len(dataset)):
        model.train_function(batches)


def _pipeline(settings):
    size, rng = 50_000, np.random.default_rng(settings["seed"])
    x = rng.integers(0, 256, (size, 32, 32, 3), "uint8")
    x, y = x.astype(settings["dtype"]), rng.integers(0, 10, size)
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    source = (x, y) if settings["source"] == "arrays" else examples
    ours = kb.data.stratified_batches(source, num_shards=8, shard_size=16)
    plain = examples.shuffle(10_000).batch(128, drop_remainder=True)
    plain = plain.prefetch(2)
    return costs.compare(
        lambda: _drain(ours), lambda: _drain(plain), settings["pairs"], per=1
    )


def _drain(dataset):
    for _ in dataset:
        pass


def memory(settings):
    """Measures peak memory over the start, and the time of tracing."""
    model = costs.model(settings["network"], settings["num_shards"])
    dataset = costs.repeated(_batch(settings))
    before, start = costs.peak_megabytes(), time.perf_counter()
    model.fit(dataset, verbose=0)
    seconds = time.perf_counter() - start
    model.fit(dataset.repeat(6), verbose=0)
    return {"peak_mb": costs.peak_megabytes() - before, "first_step": seconds}


def describe(settings):
    kind = settings["kind"]
    if kind == "pipeline":
        return f"pipeline from {settings['source']}, {settings['dtype']}"
    count = settings["num_shards"]
    shards = "plain" if count is None else f"{count} shards of"
    kind = "fit besides the step" if kind == "besides" else kind
    text = f"{kind} of {settings['network']}, {shards}"
    text += f" {settings['shard_size']}"
    return text + (", XLA" if settings.get("jit_compile") else "")


REPORT = costs.report(
    "Cost of a step, of memory and of the pipeline",
    describe,
    {"peak MB": "peak_mb", "first step, s": "first_step"},
    [
        "Step: BilevelModel.fit over plain fit on the same super-batch. "
        "Pipeline: stratified_batches over shuffle().batch().prefetch(), "
        "50,000 images of 32x32x3, 8 shards of 16; ms for an epoch.",
        "Fit besides the step: an epoch of one step, less a call of the "
        "compiled step; medians of ms, and their ratios.",
        f"{costs.PAIRS} Runs in turn in one process.",
        "Peak MB: over the start, a process each (Linux), 128 examples. First "
        "step: with tracing.",
    ],
)
EXPERIMENT = costs.experiment(
    "speed",
    PRESETS,
    _plan,
    {
        "step": _step,
        "besides": _besides,
        "pipeline": _pipeline,
        "memory": lambda s: costs.in_fresh_process("speed", s),
    },
    REPORT,
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
