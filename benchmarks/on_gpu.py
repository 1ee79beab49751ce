"""Rows of Table 3, and what a step costs, on a GPU with JAX alone.

Neither TensorFlow nor its data sets have to be there. Where they are, this
packs CIFAR-10 into a file:

    python -m benchmarks.on_gpu --pack=cifar10.npz --pack_dir=...

And on the machine with the GPU, with Keras, JAX and this package:

    KERAS_BACKEND=jax python -m benchmarks.on_gpu --packed=cifar10.npz \
        --minutes=8 --results=...

It stops after so many minutes. The same command goes on where it stopped, also
in the middle of a training.
"""

import importlib.util
import io
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from absl import app
from absl import flags
from matplotlib.figure import Figure
from PIL import Image

import keras_bilevel as kb
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks.journal import Journal

PACK = flags.DEFINE_string("pack", None, "File to pack CIFAR-10 into.")
PACKED = flags.DEFINE_string("packed", None, "File that `--pack` has made.")
PACK_DIR = flags.DEFINE_string(
    "pack_dir", None, "Folder with the prepared data set; else a download."
)
RESULTS = flags.DEFINE_string("results", "out/on_gpu", "Folder for results.")
MINUTES = flags.DEFINE_float("minutes", 8.0, "How long to work before it ends.")
SIZE = flags.DEFINE_enum(
    "size", "quick", ["tiny", "quick", "paper"], "How long the trainings are."
)
NAME = "on_gpu"
CLASSES = 10
MIXUP_ALPHA = 8.0  # For wrong labels, in its paper's Table 2.
# Both networks: SGD with momentum 0.9 and super-batches of 128, as in section
# 5.1. The ResNet: rate, decay and images as mixup's authors, for all rows.
CIFARNET = {"network": "cifarnet", "learning_rate": 0.01, "crops": False}
RESNET = {"network": "preact_resnet18", "learning_rate": 0.1, "crops": True}
METHODS = ["sgd", "bilevel", "mixup", "bilevel_mixup"]
PAPER = {"sgd": 69.6, "bilevel": 87.0, "mixup": 88.3, "bilevel_mixup": 89.0}
STEPS = [
    (name, count, size, dtype)
    for name in ("cifarnet", "preact_resnet18")
    for dtype in ("float32", "mixed_bfloat16")
    for count, size in ((8, 16), (32, 4), (8, 64))
]
SIZES = {
    "tiny": {
        "networks": [
            {"network": "small_cnn", "learning_rate": 0.01, "crops": True}
        ],
        "epochs": [2],
        "steps": [("small_cnn", 2, 4, "mixed_bfloat16")],
        "pairs": 1,
    },
    "quick": {
        "networks": [CIFARNET, RESNET],
        "epochs": [60, 15],
        "steps": STEPS,
        "pairs": 9,
    },
    "paper": {
        "networks": [CIFARNET, RESNET],
        "epochs": [200, 200],
        "steps": STEPS,
        "pairs": 15,
    },
}


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
    if settings["num_shards"]:
        weighting = kb.weighting.DeepBilevel(settings["num_shards"])
        network = kb.BilevelModel(network, weighting)
    decays = 1e-4 if settings["crops"] else None
    network.compile(
        keras.optimizers.SGD(
            settings["learning_rate"], momentum=0.9, weight_decay=decays
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True)
        if "mixup" in settings["method"]
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network


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
        deadline: Seconds on `time.monotonic`.
    """

    def __init__(self, path, deadline):
        super().__init__()
        self._path = Path(path)
        self._deadline = deadline

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
        if time.monotonic() > self._deadline:
            raise TimeoutError("Time is up; the same command goes on here.")


def train(settings, data, folder, deadline):
    """Trains, from where a run of the same settings stopped."""
    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(settings["seed"])
    given, _ = kb.data.noise.symmetric(
        y, settings["noise"], CLASSES, seed=settings["seed"]
    )
    one_hot = (
        np.eye(CLASSES) if "mixup" in settings["method"] else np.arange(10)
    )
    augment, model = Augment(settings), make(settings)
    curve = Curve(folder / "curve.txt", deadline)
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
    sides, times = [], []
    for side in (common, {**common, "num_shards": None}):
        model, data = make(side), batches(side, x, y)
        data = data.map(lambda x, y, *_: (x, y))
        start = time.perf_counter()
        model.fit(data, verbose=0)
        times.append([time.perf_counter() - start])
        sides.append((model, data))
    for _ in range(settings["pairs"]):
        for (model, data), found in zip(sides, times):
            start = time.perf_counter()
            model.fit(data, verbose=0)
            found.append(time.perf_counter() - start)
    keras.config.set_dtype_policy("float32")
    first, later = np.array(times)[:, 0], np.array(times)[:, 1:]
    return {
        "ratio": float(np.median(later[0] / later[1])),
        "ratio_of_minima": float(later[0].min() / later[1].min()),
        "ms": float(later[0].min() / len(data) * 1e3),
        "plain_ms": float(later[1].min() / len(data) * 1e3),
        "first_epoch": float(first[0]),
        "plain_first_epoch": float(first[1]),
    }


# All of it.


def plan(size):
    """Returns the settings of all pieces: steps first, then trainings."""
    fields = ("network", "num_shards", "shard_size", "dtype")
    size = SIZES[size]
    pieces = [
        {"kind": "step", "pairs": size["pairs"], **dict(zip(fields, row))}
        for row in size["steps"]
    ]
    for network, epochs in zip(size["networks"], size["epochs"]):
        common = {**network, "epochs": epochs, "batch_size": 128, "noise": 0.4}
        pieces += plans.grid(
            [{"kind": "train", **common, "seed": 0}],
            [
                {"method": m, "num_shards": 8 if "bilevel" in m else None}
                for m in METHODS
            ],
        )
    return pieces


def work(pieces, data, out, deadline):
    """Makes the pieces that are not made yet, until the deadline."""
    import jax

    journal = Journal(out / f"{NAME}.jsonl")
    for number, settings in enumerate(pieces, start=1):
        print(f"[{number}/{len(pieces)}] {settings}", flush=True)
        if journal.find([settings]):
            continue
        if time.monotonic() > deadline:
            break
        keras.backend.clear_session()
        if settings["kind"] == "step":
            metrics = step(settings)
        else:
            folder = out / "in_progress"
            folder.mkdir(exist_ok=True)
            try:
                metrics = train(settings, data, folder, deadline)
            except TimeoutError as error:
                print(error)
                break
            shutil.rmtree(folder)
        metrics["device"] = jax.devices()[0].device_kind
        journal.append({"settings": settings, "metrics": metrics})
        print("   ", {k: v for k, v in metrics.items() if k != "curve"})
    report(journal.find(pieces), out)


def report(records, out):
    """Writes a table of steps and one of trainings."""
    kinds = render.group(records, lambda s: s["kind"])
    devices = sorted({r["metrics"]["device"] for r in records})
    note = f"Keras {keras.__version__} with JAX, on {', '.join(devices)}."
    if "step" in kinds:
        render.write(_of_steps(kinds["step"], note), out, f"{NAME}_steps")
    if "train" in kinds:
        render.write(_of_trainings(kinds["train"], note), out, NAME)


def _of_steps(records, note):
    rows = {
        "network": lambda s: s["network"],
        "numbers": lambda s: s["dtype"],
        "shards": lambda s: f"{s['num_shards']} of {s['shard_size']}",
    }
    columns = {
        "ratio": "ratio",
        "ratio of minima": "ratio_of_minima",
        "ms": "ms",
        "plain ms": "plain_ms",
        "first epoch, s": "first_epoch",
        "plain first epoch, s": "plain_first_epoch",
    }
    figure = Figure(figsize=(7, 1 + 0.3 * len(records)), layout="constrained")
    axes = figure.subplots()
    names = [
        ", ".join(read(r["settings"]) for read in rows.values())
        for r in records
    ]
    axes.barh(names, render.values(records, "ratio"))
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="step of Deep Bilevel over a plain one (lower is better)")
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
        "method": lambda s: s["method"],
        "paper (200 epochs)": lambda s: (
            f"{PAPER[s['method']] / 100:.3f}" if s["crops"] else "-"
        ),
    }
    columns = {
        "test (clean)": "test",
        "best epoch's test": "best_test",
        "train (given)": "train_given",
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


def main(argv):
    deadline = time.monotonic() + 60 * MINUTES.value
    if PACK.value:
        pack(PACK.value, PACK_DIR.value)
        return
    # NumPy makes the batches, and what augments them works on arrays.
    if not PACKED.value or importlib.util.find_spec("tensorflow"):
        raise app.UsageError(
            "Expected --packed, and an environment without TensorFlow."
        )
    out = Path(RESULTS.value)
    out.mkdir(parents=True, exist_ok=True)
    work(plan(SIZE.value), unpack(PACKED.value), out, deadline)


if __name__ == "__main__":
    app.run(main)
