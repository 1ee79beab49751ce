"""Does Deep Bilevel Learning help with several labels an image, and few images?

The setting of the paper's Fig. 5: a growing share of a small set, mini-batches
of 64, 4 shards, a rate that falls linearly from 0.01 to 0. Its data are Pascal
VOC 2007 (`--preset=paper`, downloaded by TensorFlow Datasets), without the
random crops here. `quick` puts up to four images of CIFAR-10 into the quarters
of a new one, half as large; its labels are their classes.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from benchmarks import datasets
from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

COMMON = {
    "batch_size": 64,
    "num_shards": 4,
    "learning_rate": 0.01,
    "momentum": 0.9,
}
PRESETS = {
    "quick": {
        "data": {"dataset": "quarters", "network": "small_cifarnet"},
        "num_train": [500, 1_000, 2_000, 4_000],
        "epochs": 100,
        "seeds": [0, 1, 2],
    },
    "paper": {
        "data": {"dataset": "voc", "network": "cifarnet"},
        "num_train": [1_250, 2_500, 5_011],
        "epochs": 1_000,
        "seeds": [0, 1, 2],
    },
}
VOC_SIZE = 64  # The paper: 227.
QUARTER = 0.5  # How likely there is an image in a quarter.


def _plan(preset, records):
    return plans.grid(
        plans.each("seed", preset["seeds"]),
        [{**COMMON, **preset["data"], "epochs": preset["epochs"]}],
        plans.each("num_train", preset["num_train"]),
        plans.each("method", render.METHODS),
    )


def quarters(images, labels, size, num_classes, seed):
    """Puts up to four images into the quarters of new ones.

    Args:
        images: Float array of shape `(n, height, width, channels)`.
        labels: Integer array of shape `(n,)`.
        size: Integer, how many to make.
        num_classes: Integer.
        seed: Integer.

    Returns:
        Tuple of images of the same shape, and of a float array of labels of
        shape `(size, num_classes)`. At least one of them is 1.
    """
    rng = np.random.default_rng(seed)
    n, height, width, channels = images.shape
    chosen = rng.integers(n, size=(size, 4))
    is_there = rng.random((size, 4)) < QUARTER
    is_there[np.arange(size), rng.integers(4, size=size)] = True
    halves = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    parts = halves.mean(axis=(2, 4))[chosen]
    parts *= is_there[:, :, None, None, None]
    above, below = (
        np.concatenate([parts[:, i], parts[:, i + 1]], axis=2) for i in (0, 2)
    )
    y = np.zeros((size, num_classes), "float32")
    rows, places = np.nonzero(is_there)
    y[rows, labels[chosen[rows, places]]] = 1.0
    return np.concatenate([above, below], axis=1), y


def load(settings, data_dir):
    """Returns `(x, y)` to train on and to test on, pixels in [-1, 1]."""
    make = _voc if settings["dataset"] == "voc" else _quarters
    train, test = make(settings["num_train"], settings["seed"], data_dir)
    return [(2 * x - 1, y) for x, y in (train, test)]


def _quarters(size, seed, data_dir):
    data = datasets.load("cifar10", data_dir)
    parts = (
        (data.x_train, data.y_train, size, 2 * seed),
        (data.x_test, data.y_test, 2_000, 2 * seed + 1),
    )
    return [
        quarters(x, y, size, data.num_classes, seed)
        for x, y, size, seed in parts
    ]


def _voc(size, seed, data_dir):
    import tensorflow_datasets as tfds

    def read(example):
        image = tf.image.resize(example["image"], (VOC_SIZE, VOC_SIZE)) / 255
        return image, tf.reduce_max(tf.one_hot(example["labels"], 20), axis=0)

    def arrays(split):
        found = tfds.load("voc/2007", split=split, data_dir=data_dir)
        x, y = zip(*found.map(read).as_numpy_iterator())
        return np.stack(x), np.stack(y)

    x, y = arrays("train+validation")
    order = np.random.default_rng(seed).permutation(len(x))[:size]
    return (x[order], y[order]), arrays("test")


def run(settings, data_dir=None, verbose=0):
    """Trains once; returns the mean average precisions."""
    keras.utils.set_random_seed(settings["seed"])
    train, test = load(settings, data_dir)
    x, y = train
    model = networks.build(settings["network"], x.shape[1:], y.shape[1])
    if settings["method"] == "bilevel":
        count = settings["num_shards"]
        model = networks.bilevel(model, count, stratify_by=None)
    first, epochs = settings["learning_rate"], settings["epochs"]
    model.compile(
        keras.optimizers.SGD(first, settings["momentum"]),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch: first * (1 - epoch / epochs)
    )
    model.fit(
        *train,
        batch_size=settings["batch_size"],
        epochs=epochs,
        callbacks=[schedule],
        verbose=verbose,
    )
    found = {
        name: mean_average_precision(y, model.predict(x, verbose=0))
        for name, (x, y) in {"test": test, "train": train}.items()
    }
    return {**found, "gap": found["train"] - found["test"]}


def mean_average_precision(y, scores):
    """Returns the average precision of each class that occurs, their mean."""
    occurs = y.any(axis=0)
    return float(average_precision_score(y[:, occurs], scores[:, occurs]))


def _report(records):
    rows = {
        "images": lambda s: f"{s['num_train']} of {s['dataset']}",
        "method": lambda s: render.METHODS[s["method"]],
    }
    columns = {"test": "test", "train": "train", "gap": "gap"}
    return render.Report(
        "Several labels an image, mean average precision",
        render.table(records, rows, columns),
        [
            render.NOTES[0],
            "Mean over classes of the average precision, after the last epoch. "
            "Shards are drawn at random.",
            "quarters: up to four images of CIFAR-10 in one, labelled by all "
            "of their classes; 2,000 such images of the test set.",
        ],
        _figure(records),
    )


def _figure(records):
    looks = {
        f"{name}, {part}": {"color": color, "linestyle": style}
        for name, color in zip(render.METHODS.values(), figures.COLORS)
        for part, style in (("test", "-"), ("train", "--"))
    }

    def draw(axes, members):
        lines = render.group(members, lambda s: render.METHODS[s["method"]])
        for name, runs in lines.items():
            for part in ("test", "train"):
                look = {**looks[f"{name}, {part}"], "marker": "o"}
                figures.against(axes, runs, "num_train", part, **look)

    return figures.panels(
        records,
        "dataset",
        "network",
        draw,
        "images",
        looks,
        "mean average precision",
    )


EXPERIMENT = runner.Experiment("multi_label", PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
