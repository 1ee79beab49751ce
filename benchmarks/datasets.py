"""All image data sets of the experiments, as arrays."""

import dataclasses
import functools

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NAMES = ("digits", "mnist", "cifar10", "cifar100", "usps", "svhn_cropped")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in [0, 1] as float32, clean labels as int64.

    Images have the shape `(n, height, width, channels)`. `train_ids` tells
    where each training image is in the whole data set (`digits`) or its
    training split (all others).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    train_ids: np.ndarray


def load(name, data_dir=None, num_train=None, seed=0):
    """Loads a data set.

    Args:
        name: One of `NAMES`. `digits` comes with scikit-learn and needs no
            download, the others are TensorFlow Datasets.
        data_dir: Folder with prepared TensorFlow Datasets. `None` downloads
            to, and then reads from, their default folder.
        num_train: Integer, the size of a stratified random subset of the
            training images. `None` takes all.
        seed: Integer, for the subset. The test images are always the same.
    """
    if name not in NAMES:
        raise ValueError(
            f"Unknown data set. Expected one of {NAMES}. Received: {name!r}"
        )
    parts = _digits() if name == "digits" else _tfds(name, data_dir)
    x_train, y_train, x_test, y_test, ids = parts
    chosen = np.arange(len(y_train))
    if num_train is not None:
        chosen, _ = train_test_split(
            chosen, train_size=num_train, stratify=y_train, random_state=seed
        )
    x_train, x_test = (
        images.astype("float32") / 255 for images in (x_train[chosen], x_test)
    )
    num_classes, ids = int(y_train.max()) + 1, ids[chosen]
    return Dataset(x_train, y_train[chosen], x_test, y_test, num_classes, ids)


@functools.cache
def _digits():
    images, labels = load_digits(return_X_y=True)
    # Grey values are 0 to 16; bytes, like those of all other data sets.
    images = (images * 255 / 16).round().astype("uint8").reshape(-1, 8, 8, 1)
    labels = labels.astype("int64")
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    return images[train], labels[train], images[test], labels[test], train


@functools.cache
def _tfds(name, data_dir):
    # Takes seconds to import and `digits` does without it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"TensorFlow Datasets knows no {name!r}. Put a prepared copy into "
            f"a folder and pass it as --data_dir. Received: {data_dir}"
        ) from error
    if data_dir is None:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise ValueError(
            f"Expected a prepared {name!r} below --data_dir, for instance of "
            f"`tfds build {name} --data_dir={data_dir}`. Received: {data_dir}. "
            "Without --data_dir it is downloaded."
        )
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(
        builder.as_dataset(
            split=["train", "test"], as_supervised=True, batch_size=-1
        )
    )
    y_train, y_test = y_train.astype("int64"), y_test.astype("int64")
    return x_train, y_train, x_test, y_test, np.arange(len(y_train))
