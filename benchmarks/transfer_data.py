"""Digits to borrow from, and few images of the digits that are to be learnt."""

import types

import numpy as np
import tensorflow as tf

from benchmarks import datasets

SHAPE = (28, 28, 1)
OF_MNIST = ("mnist", "coloured")  # Sources of the target's own images.


def make(settings, data_dir=None):
    """Makes the data of a run; the seed decides which images.

    The target images depend on neither case nor source, and 20 of them are
    part of the 25.

    Returns:
        Namespace of `(x, y)`: `source`, `target` and `evaluation`; images in
        [0, 1] of shape `SHAPE`, classes counted from 0. `unlabelled` are more
        images of the target's digits. `target_ids` and `source_ids` are where
        the images are in their training splits.
    """
    rng = np.random.default_rng(settings["seed"])
    mnist = datasets.load("mnist", data_dir)
    classes, count = settings["target_classes"], settings["num_target"]
    target, rest = _split(rng, mnist.y_train, classes, count // len(classes))
    taken, rows = target, np.isin(mnist.y_test, classes)
    evaluation = mnist.x_test[rows], mnist.y_test[rows]
    if settings["held_out"]:
        taken = np.concatenate([target, rest])
        evaluation = mnist.x_train[rest], mnist.y_train[rest]
    free = np.setdiff1d(mnist.train_ids, taken)
    images, digits, source = _source(rng, settings, mnist, free, data_dir)
    taken = source if settings["source"] in OF_MNIST else []
    unlabelled = np.setdiff1d(rest, taken)
    return types.SimpleNamespace(
        source=_from_0(images, digits, settings["source_classes"]),
        target=_from_0(mnist.x_train[target], mnist.y_train[target], classes),
        evaluation=_from_0(*evaluation, classes),
        unlabelled=mnist.x_train[unlabelled],
        target_ids=target,
        source_ids=source,
    )


def _split(rng, y, classes, each):
    """So many rows of each class; and the others, 1,000 of each at most."""
    rows = [rng.permutation(np.flatnonzero(y == c)) for c in classes]
    return (
        np.concatenate([r[:each] for r in rows]),
        np.concatenate([r[each:][:1000] for r in rows]),
    )


def _from_0(images, digits, classes):
    return images, np.searchsorted(classes, digits)


def _source(rng, settings, mnist, free, data_dir):
    """Images, digits and their rows of the source."""
    name, count = settings["source"], settings["num_source"]
    # Classes of digits may overlap with the target's, images may not.
    of_mnist = name in OF_MNIST
    data = mnist if of_mnist else datasets.load(name, data_dir)
    rows = free if of_mnist else np.arange(len(data.y_train))
    rows = rows[np.isin(data.y_train[rows], settings["source_classes"])]
    rows = rng.permutation(rows)[:count]
    images = data.x_train[rows]
    if name == "coloured":
        patches = datasets.load("cifar10", data_dir, count, settings["seed"])
        images = _coloured(rng, images, patches.x_train)
    return _as_mnist(images), data.y_train[rows], rows


def _coloured(rng, digits, backgrounds):
    """|patch - digit| at a random place of the background, as in MNIST-M."""
    size = digits.shape[1]
    room = backgrounds.shape[1] - size + 1
    tops, lefts = rng.integers(room, size=(2, len(digits)))
    patches = [
        image[top : top + size, left : left + size]
        for image, top, left in zip(backgrounds, tops, lefts)
    ]
    return np.abs(np.stack(patches) - digits)


def _as_mnist(images):
    """Grey images of MNIST's size."""
    if images.shape[-1] == 3:
        images = tf.image.rgb_to_grayscale(images)
    return tf.image.resize(images, SHAPE[:2]).numpy()
