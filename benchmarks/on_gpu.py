"""Rows of Table 3, and what a step costs, on a GPU with JAX alone.

Neither TensorFlow nor its data sets have to be there. Where they are, this
packs CIFAR-10 into a file:

    python -m benchmarks.on_gpu --pack=cifar10.npz --data_dir=...

And on the machine with the GPU, with Keras, JAX and this package:

    KERAS_BACKEND=jax python -m benchmarks.on_gpu --packed=cifar10.npz \
        --minutes=8 --out=...

It stops after so many minutes. The same command goes on where it stopped, also
in the middle of a training.
"""

import functools
import importlib.util
import io
import shutil
import sys
import time
from pathlib import Path

import keras
import numpy as np
from absl import app
from absl import flags
from matplotlib.figure import Figure
from PIL import Image

import keras_bilevel as kb
from benchmarks import costs
from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

PACK = flags.DEFINE_string("pack", None, "File to pack CIFAR-10 into.")
PACKED = flags.DEFINE_string("packed", None, "File that `--pack` has made.")
MINUTES = flags.DEFINE_float("minutes", 8.0, "How long to work before it ends.")
START = time.monotonic()
NAME = "on_gpu"
CLASSES = 10
MIXUP_ALPHA = 8.0  # For wrong labels, in its paper's Table 2.
# Both networks: SGD with momentum 0.9 and super-batches of 128, as in section
# 5.1. The ResNet: rate, decay and images as mixup's authors, for all rows.
CIFARNET = {"network": "cifarnet", "learning_rate": 0.01, "crops": False}
RESNET = {"network": "preact_resnet18", "learning_rate": 0.1, "crops": True}
METHODS = [
    {"method": "sgd", "num_shards": None},
    {"method": "bilevel", "num_shards": 8},
    {"method": "mixup", "num_shards": None},
    {"method": "bilevel_mixup", "num_shards": 8},
]
PAPER = {"sgd": 69.6, "bilevel": 87.0, "mixup": 88.3, "bilevel_mixup": 89.0}
FIELDS = ("network", "num_shards", "shard_size", "dtype")
STEPS = [
    (name, count, size, dtype)
    for name in ("cifarnet", "preact_resnet18")
    for dtype in ("float32", "mixed_bfloat16")
    for count, size in ((8, 16), (32, 4), (8, 64))
]
PRESETS = {
    "quick": {
        "trainings": [{**CIFARNET, "epochs": 60}, {**RESNET, "epochs": 15}],
        "steps": STEPS,
        "pairs": 9,
        "seeds": [0],
    },
    "paper": {
        "trainings": [{**CIFARNET, "epochs": 200}, {**RESNET, "epochs": 200}],
        "steps": STEPS,
        "pairs": 15,
        "seeds": [0],
    },
}


def _plan(preset, records):
    """Steps first, then trainings."""
    steps = plans.grid(
        [{"kind": "step", "pairs": preset["pairs"]}],
        [dict(zip(FIELDS, row)) for row in preset["steps"]],
    )
    trainings = plans.grid(
        [{"kind": "train", "batch_size": 128, "noise": 0.4}],
        plans.each("seed", preset["seeds"]),
        preset["trainings"],
        METHODS,
    )
    return steps + trainings


def run(settings, data_dir=None, verbose=0):
    """Makes a piece, if there is time left."""
    import jax

    _check_time()
    make = step if settings["kind"] == "step" else train
    return {**make(settings), "device": jax.devices()[0].device_kind}


def _check_time():
    if time.monotonic() > START + 60 * MINUTES.value:
        raise runner.TimeIsUp("Time is up; the same command goes on here.")


# Data, without TensorFlow Datasets.


def pack(path, data_dir):
    """Writes CIFAR-10 into one file, its images as they were encoded."""
    import tensorflow_datasets as tfds

    parts = {}
    for split in ("train", "test"):
        dataset = tfds.load(
            "cifar10",
            split=split,
            data_dir=data_dir,
            download=data_dir is None,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        examples = list(tfds.as_numpy(dataset))
        images = [example["image"] for example in examples]
        parts[f"{split}_bytes"] = np.frombuffer(b"".join(images), "uint8")
        parts[f"{split}_sizes"] = np.array([len(image) for image in images])
        parts[f"{split}_labels"] = np.array([e["label"] for e in examples])
    np.savez_compressed(path, **parts)


@functools.cache
def unpack(path):
    """Returns `(images, labels)` of training and of test, images as bytes."""
    with np.load(path) as file:
        return [
            (
                _decoded(file[f"{split}_bytes"], file[f"{split}_sizes"]),
                file[f"{split}_labels"].astype("int64"),
            )
            for split in ("train", "test")
        ]


def _decoded(data, sizes):
    ends = np.cumsum(sizes)
    return np.stack(
        [
            np.asarray(Image.open(io.BytesIO(data[end - size : end].tobytes())))
            for size, end in zip(sizes, ends)
        ]
    )


class Augment(keras.callbacks.Callback):
    """Crops, flips and mixes batches; the same in a run that resumes.

    Args:
        settings: Those of a run.
    """

    def __init__(self, settings):
        super().__init__()
        self._seed = settings["seed"]
        self._crops = settings["crops"]
        self._mixes = "mixup" in settings["method"]
        # No training shard is to see a validation shard.
        self._parts = settings["num_shards"] or 1
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch, logs=None):
        self._rng = np.random.default_rng((self._seed, epoch))

    def __call__(self, x, y, *_):
        if self._crops:
            x = crop_and_flip(self._rng, x)
        if self._mixes:
            x, y = mix(self._rng, x, np.eye(CLASSES)[y], self._parts)
        return x, y


def crop_and_flip(rng, x):
    """Moves images by up to four pixels, and flips half of them."""
    size = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
    top, left = rng.integers(9, size=(2, len(x)))
    x = np.moveaxis(windows[np.arange(len(x)), top, left], 1, -1)
    flips = rng.random(len(x)) < 0.5
    x[flips] = x[flips, :, ::-1]
    return x


def mix(rng, x, y, parts):
    """Blends each example with another one of its part of the batch."""
    share = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    rows = np.arange(len(x)).reshape(parts, -1)
    other = rng.permuted(rows, axis=1).ravel()
    return [
        (share * a + (1 - share) * a[other]).astype("float32") for a in (x, y)
    ]


# Trainings.


def make(settings):
    """Returns a compiled model for bytes."""
    network = networks.build(settings["network"], (32, 32, 3), CLASSES)
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1.0),
            network,
            # Losses of mixed precision are of float32.
            keras.layers.Activation("linear", dtype="float32"),
        ]
    )
    loss = None
    if "mixup" in settings["method"]:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return networks.compiled(
        networks.bilevel(network, settings["num_shards"]),
        settings["learning_rate"],
        0.9,
        loss,
        weight_decay=1e-4 if settings["crops"] else None,
    )


def batches(settings, x, y):
    """Returns the batches of a run."""
    seed, size = settings["seed"], settings["batch_size"]
    if not settings["num_shards"]:
        return kb.data.shuffled_batches((x, y), size, seed=seed)
    count = settings["num_shards"]
    return kb.data.stratified_batches((x, y), count, size // count, seed=seed)


def rate(settings, epoch):
    """Returns the rate of an epoch: it falls by 5 %, or at 1/2 and 3/4."""
    first, epochs = settings["learning_rate"], settings["epochs"]
    if settings["crops"]:
        return first * 0.1 ** (
            (2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)
        )
    return first * 0.95**epoch


class Curve(keras.callbacks.Callback):
    """Keeps the test accuracy of each epoch in a file, and stops in time.

    Args:
        path: Of the file.
    """

    def __init__(self, path):
        super().__init__()
        self._path = Path(path)

    @property
    def rows(self):
        """Test accuracy and seconds, a row for each epoch."""
        return np.loadtxt(self._path, ndmin=2)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()
        kept = self.rows[:epoch] if epoch else np.zeros((0, 2))
        np.savetxt(self._path, kept)

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._start
        with open(self._path, "a") as file:
            np.savetxt(file, [[logs["val_accuracy"], seconds]])
        print(f"    epoch {epoch}: {logs['val_accuracy']:.4f}", flush=True)
        _check_time()


def train(settings):
    """Trains, from where a run of the same settings stopped."""
    folder = runner.folder(NAME) / "in_progress"
    folder.mkdir(exist_ok=True)
    (x, y), (x_test, y_test) = unpack(PACKED.value)
    keras.utils.set_random_seed(settings["seed"])
    given, _ = kb.data.noise.symmetric(
        y, settings["noise"], CLASSES, seed=settings["seed"]
    )
    one_hot = (
        np.eye(CLASSES) if "mixup" in settings["method"] else np.arange(10)
    )
    augment, model = Augment(settings), make(settings)
    curve = Curve(folder / "curve.txt")
    model.fit(
        batches(settings, x, given).map(augment),
        epochs=settings["epochs"],
        verbose=0,
        validation_data=(x_test, one_hot[y_test]),
        validation_batch_size=1000,
        callbacks=[
            augment,
            keras.callbacks.LearningRateScheduler(lambda e: rate(settings, e)),
            keras.callbacks.BackupAndRestore(str(folder / "backup")),
            # Last, so that an epoch that is in the curve is in the backup.
            curve,
        ],
    )
    found = model.evaluate(
        x, one_hot[given], batch_size=1000, verbose=0, return_dict=True
    )
    test, seconds = curve.rows.T
    shutil.rmtree(folder)
    return {
        "test": float(test[-1]),
        "best_test": float(test.max()),
        "train_given": float(found["accuracy"]),
        "seconds": float(np.median(seconds)),
        "curve": test.round(4).tolist(),
    }


# Steps.


def step(settings):
    """Returns what a step costs over a plain one of the same examples."""
    keras.config.set_dtype_policy(settings["dtype"])
    size = settings["num_shards"] * settings["shard_size"]
    steps = 3 * settings["pairs"]
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(size * steps, 32, 32, 3), dtype="uint8")
    y = np.repeat(np.arange(CLASSES), -(-len(x) // CLASSES))[: len(x)]
    common = {**settings, "batch_size": size, "method": "sgd", "crops": False}
    common |= {"learning_rate": 0.01, "seed": 0}

    def fit(num_shards):
        side = {**common, "num_shards": num_shards}
        model, data = make(side), batches(side, x, y)
        data = data.map(lambda x, y, *_: (x, y))
        return lambda: model.fit(data, verbose=0)

    ours, plain = fit(settings["num_shards"]), fit(None)
    first, plain_first = (costs.timed(side)[1] for side in (ours, plain))
    _, wall = costs.in_turn(ours, plain, settings["pairs"])
    keras.config.set_dtype_policy("float32")
    least, plain_least = wall.min(axis=0)
    return {
        "ratio": float(np.median(wall[:, 0] / wall[:, 1])),
        "ratio_of_minima": float(least / plain_least),
        "ms": float(least / steps * 1e3),
        "plain_ms": float(plain_least / steps * 1e3),
        "first_epoch": first,
        "plain_first_epoch": plain_first,
    }


# The report.


def _report(records):
    kinds = render.group(records, "kind")
    devices = sorted({r["metrics"]["device"] for r in records})
    note = f"Keras {keras.__version__} with JAX, on {', '.join(devices)}."
    steps = _of_steps(kinds.get("step", []), note)
    render.write(steps, runner.folder(NAME), f"{NAME}_steps")
    return _of_trainings(kinds.get("train", []), note)


def _shards(settings):
    return f"{settings['num_shards']} of {settings['shard_size']}"


def _of_steps(records, note):
    rows = {"network": "network", "numbers": "dtype", "shards": _shards}
    columns = {
        "ratio": "ratio",
        "ratio of minima": "ratio_of_minima",
        "ms": "ms",
        "plain ms": "plain_ms",
        "first epoch, s": "first_epoch",
        "plain first epoch, s": "plain_first_epoch",
    }
    figure = figures.bars(
        records,
        lambda s: f"{s['network']}, {s['dtype']}, {_shards(s)}",
        ["ratio"],
        "step of Deep Bilevel over a plain one (lower is better)",
    )
    notes = [
        note,
        "Wall time of `fit`, in turn with plain `fit` on the same batches; the "
        "median of the pairs' ratios, and the ratio of the minima.",
        "First epoch: with tracing and compilation.",
    ]
    table = render.table(records, rows, columns)
    return render.Report("What a step costs on a GPU", table, notes, figure)


def _of_trainings(records, note):
    rows = {
        "network": lambda s: f"{s['network']}, {s['epochs']} epochs",
        "method": "method",
        "paper (200 epochs)": lambda s: (
            f"{PAPER[s['method']] / 100:.3f}" if s["crops"] else "-"
        ),
    }
    columns = {
        **render.columns("test", "best_test", "train_given"),
        "s an epoch": "seconds",
    }
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for record in records:
        settings, curve = record["settings"], record["metrics"]["curve"]
        label = f"{settings['network']}, {settings['method']}"
        axes.plot(np.arange(len(curve)) + 1, curve, label=label)
    axes.set(xlabel="epoch", ylabel="test accuracy, clean")
    axes.legend(fontsize=8)
    notes = [
        note,
        "CIFAR-10, 40 % of the labels wrong (symmetric), super-batches of 128, "
        "Deep Bilevel with 8 shards. One seed; settings are the paper's, none "
        "was chosen by a result.",
    ]
    return render.Report(
        "CIFAR-10 with 40 % wrong labels, on a GPU",
        render.table(records, rows, columns),
        notes,
        figure,
    )


def _choose():
    if PACK.value:
        pack(PACK.value, runner.DATA_DIR.value)
        sys.exit()
    # NumPy makes the batches, and what augments them works on arrays.
    if not PACKED.value or importlib.util.find_spec("tensorflow"):
        raise app.UsageError(
            "Expected --packed, and an environment without TensorFlow."
        )
    unpack(PACKED.value)  # So that a wrong file is told at once.
    return EXPERIMENT


EXPERIMENT = runner.Experiment(NAME, PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(_choose)
