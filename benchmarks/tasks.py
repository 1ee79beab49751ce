"""A data set with wrong labels: what is to be learnt, and from what."""

import dataclasses
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import datasets
from keras_bilevel.data import noise

KINDS = ("symmetric", "pair", "confusion", "uniform", "human")


@dataclasses.dataclass(frozen=True)
class Task:
    """Arrays of a noisy training set and of what is evaluated on.

    Attributes:
        x: Training images.
        y_given: Their labels, some of them wrong: all that training sees.
        y_clean: Their true labels, for reports only.
        ids: Where they are in the data set, see `datasets.Dataset`.
        evaluation: `(x, y)`: the clean test set or, where hyper-parameters
            are chosen, held-out training images with their *noisy* labels.
        num_classes: Integer.
    """

    x: np.ndarray
    y_given: np.ndarray
    y_clean: np.ndarray
    ids: np.ndarray
    evaluation: tuple
    num_classes: int

    @property
    def wrong(self):
        """Boolean array: which of the given labels are wrong."""
        return self.y_given != self.y_clean

    def take(self, rows):
        """Returns the task of some training examples."""
        parts = ("x", "y_given", "y_clean", "ids")
        return dataclasses.replace(
            self, **{part: getattr(self, part)[rows] for part in parts}
        )


def changed(defaults, changes):
    """Returns the settings of a run: defaults with some changes."""
    unknown = set(changes) - set(defaults)
    if unknown:
        raise ValueError(f"Unknown settings. Received: {sorted(unknown)}")
    return {**defaults, **changes}


def split_clean(task, count, seed):
    """Takes examples with clean labels out of a task.

    Args:
        task: A `Task`.
        count: Integer, how many.
        seed: Integer.

    Returns:
        Tuple of the `Task` of the others and `(x, y)`, with clean labels.
    """
    rows, taken = train_test_split(
        np.arange(len(task.x)),
        train_size=len(task.x) - count,
        stratify=task.y_clean,
        random_state=seed,
    )
    return task.take(rows), (task.x[taken], task.y_clean[taken])


def make(settings, data_dir=None):
    """Builds the task of a run; the seed decides on subset and noise.

    Args:
        settings: Dict with `dataset`, `num_train`, `noise_kind`, `noise`,
            `label_set`, `held_out`, `inputs` and `seed`; see
            `training.DEFAULTS`.
        data_dir: See `datasets.load`.

    Returns:
        A `Task`.
    """
    seed = settings["seed"]
    data = datasets.load(
        settings["dataset"], data_dir, settings["num_train"], seed
    )
    y_given = _given(data, settings, data_dir)
    x_train, x_test = (
        _rescale(x, settings["inputs"]) for x in (data.x_train, data.x_test)
    )
    train, evaluation = np.arange(len(y_given)), (x_test, data.y_test)
    if settings["held_out"]:
        train, rest = train_test_split(
            train,
            test_size=settings["held_out"],
            stratify=y_given,
            random_state=seed,
        )
        evaluation = (x_train[rest], y_given[rest])
    return Task(
        x_train[train],
        y_given[train],
        data.y_train[train],
        data.train_ids[train],
        evaluation,
        data.num_classes,
    )


def _rescale(x, limits):
    """Moves pixels from [0, 1] to the range `limits`."""
    low, high = limits
    return (low + (high - low) * x).astype("float32")


def _given(data, settings, data_dir):
    kind, fraction = settings["noise_kind"], settings["noise"]
    y, num_classes = data.y_train, data.num_classes
    seed = settings["seed"]
    if kind == "symmetric":
        return noise.symmetric(y, fraction, num_classes, seed=seed)[0]
    if kind == "pair":
        return noise.pair_flip(y, fraction, num_classes, seed=seed)[0]
    if kind == "confusion":
        matrix = noise.random_confusion_matrix(num_classes, fraction, seed=seed)
        return noise.confusion(y, matrix, seed=seed)[0]
    if kind == "uniform":
        return noise.uniform(y, num_classes, seed=seed)[0]
    if kind == "human":
        if settings["dataset"] != "cifar10" or data_dir is None:
            raise ValueError(
                "Human labels are those of CIFAR-10N: expected "
                "--dataset=cifar10 and --data_dir, next to which "
                "cifar10n_labels.npz lies. Received: "
                f"dataset={settings['dataset']}, data_dir={data_dir}"
            )
        return human_labels(data, data_dir, settings["label_set"])
    raise ValueError(
        f"Unknown kind of noise. Expected one of {KINDS}. Received: {kind!r}"
    )


def human_labels(data, data_dir, label_set):
    """Labels that people gave to CIFAR-10's images: CIFAR-10N.

    Args:
        data: `datasets.Dataset` of CIFAR-10.
        data_dir: Folder of the prepared data sets; `cifar10n_labels.npz` lies
            next to it.
        label_set: The array to take: `worse_label` (40 % wrong),
            `aggre_label` (9 %), `random_label1`, ... (17 to 18 %).

    Returns:
        Array of shape `(n,)`.

    Reference:
        [Learning with Noisy Labels Revisited](https://arxiv.org/abs/2110.12088)
        (Wei et al., 2022).
    """
    folder = Path(data_dir).expanduser().resolve().parent
    path = folder / "cifar10n_labels.npz"
    with np.load(path) as labels:
        order = labels["tfds_order"][data.train_ids]
        clean, given = labels["clean_label"][order], labels[label_set][order]
    if not np.array_equal(clean, data.y_train):
        raise ValueError(
            f"{path} is not in the order of the CIFAR-10 below {data_dir}: "
            f"{np.mean(clean != data.y_train):.1%} of its clean labels differ."
        )
    return given.astype("int64")
