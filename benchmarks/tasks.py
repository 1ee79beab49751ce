"""A data set with wrong labels: what is to be learnt, and from what."""

import dataclasses
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import datasets
from benchmarks import networks
from keras_bilevel.data import noise

KINDS = ("symmetric", "pair", "confusion", "uniform", "human", "predicted")


@dataclasses.dataclass(frozen=True)
class Task:
    """Arrays of a noisy training set and of what is evaluated on."""

    x: np.ndarray
    y_given: np.ndarray  # Some of them wrong: all that training sees.
    y_clean: np.ndarray  # For reports only.
    ids: np.ndarray  # Where they are in the data set, see `datasets`.
    # `(x, y)`: the clean test set or, where hyper-parameters are chosen,
    # held-out training images with their *noisy* labels.
    evaluation: tuple
    num_classes: int
    clean: tuple = None  # `(x, y)`, apart from all of these.
    validation: tuple = None  # `(x, y)` with noisy labels, likewise.

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


def make(settings, data_dir=None):
    """Builds the `Task` of a run; the seed decides on subset and noise."""
    seed = settings["seed"]
    num_noisy = settings.get("num_source", settings.get("num_train"))
    num_clean = settings.get("num_target", settings.get("num_clean", 0))
    num_train = num_noisy and num_noisy + num_clean
    data = datasets.load(settings["dataset"], data_dir, num_train, seed)
    low, high = settings["inputs"]
    x, x_test = (
        (low + (high - low) * images).astype("float32")
        for images in (data.x_train, data.x_test)
    )
    if settings.get("permuted"):
        # Seeds apart, so that no test image is permuted as a training image.
        x = noise.pixel_permutation(x, seed=2 * seed)[0]
        x_test = noise.pixel_permutation(x_test, seed=2 * seed + 1)[0]
    given = _given(data, settings, data_dir)
    parts = x, given, data.y_train, data.train_ids
    task = Task(*parts, (x_test, data.y_test), data.num_classes)
    if settings["held_out"]:
        task, rest = _split(task, settings["held_out"], given, seed)
        evaluation = rest.x, rest.y_given
        task = dataclasses.replace(task, evaluation=evaluation)
    if num_clean:
        task, rest = _split(task, num_clean, task.y_clean, seed)
        task = dataclasses.replace(task, clean=(rest.x, rest.y_clean))
    if settings.get("validation"):
        task, rest = _split(task, settings["validation"], task.y_given, seed)
        task = dataclasses.replace(task, validation=(rest.x, rest.y_given))
    return task


def _split(task, size, y, seed):
    """Returns the tasks of most of the examples and of the others."""
    parts = train_test_split(
        np.arange(len(y)), test_size=size, stratify=y, random_state=seed
    )
    return map(task.take, parts)


def _given(data, settings, data_dir):
    """Returns the labels that training sees."""
    kind, fraction = settings["noise_kind"], settings["noise"]
    y, num_classes, seed = data.y_train, data.num_classes, settings["seed"]
    match kind:
        case "symmetric":
            return noise.symmetric(y, fraction, num_classes, seed=seed)[0]
        case "pair":
            return noise.pair_flip(y, fraction, num_classes, seed=seed)[0]
        case "confusion":
            matrix = noise.random_confusion_matrix(
                num_classes, fraction, seed=seed
            )
            return noise.confusion(y, matrix, seed=seed)[0]
        case "uniform":
            return noise.uniform(y, num_classes, seed=seed)[0]
        case "human":
            return human_labels(data, data_dir, settings)
        case "predicted":
            return _predicted_labels(data, settings)
    raise ValueError(
        f"Unknown kind of noise. Expected one of {KINDS}. Received: {kind!r}"
    )


def _predicted_labels(data, settings):
    """Labels that a network gives, which has learnt the right ones.

    Dropout makes it err, see `noise.predicted`. The setting `teacher` has the
    `fit` options of the network that is trained, and its rate.
    """
    options = dict(settings["teacher"])
    network = networks.build(
        settings["network"], data.x_train.shape[1:], data.num_classes
    )
    networks.compiled(network, options.pop("learning_rate"), momentum=0.9)
    network.fit(data.x_train, data.y_train, verbose=0, **options)
    return noise.predicted(
        network, data.x_train, data.y_train, seed=settings["seed"]
    )[0]


def human_labels(data, data_dir, settings):
    """Labels that people gave to CIFAR-10's images: CIFAR-10N.

    The setting `label_set` names the array to take from `cifar10n_labels.npz`
    next to `data_dir`: `worse_label` (40 % wrong), `aggre_label` (9 %),
    `random_label1`, ... (17 to 18 %).

    Reference:
        [Learning with Noisy Labels Revisited](https://arxiv.org/abs/2110.12088)
        (Wei et al., 2022).
    """
    if settings["dataset"] != "cifar10" or data_dir is None:
        raise ValueError(
            "Human labels are those of CIFAR-10N: expected --dataset=cifar10 "
            "and --data_dir, next to which cifar10n_labels.npz lies. "
            f"Received: dataset={settings['dataset']}, data_dir={data_dir}"
        )
    folder = Path(data_dir).expanduser().resolve().parent
    path = folder / "cifar10n_labels.npz"
    with np.load(path) as labels:
        order = labels["tfds_order"][data.train_ids]
        clean = labels["clean_label"][order]
        given = labels[settings["label_set"]][order]
    if not np.array_equal(clean, data.y_train):
        raise ValueError(
            f"{path} is not in the order of the CIFAR-10 below {data_dir}: "
            f"{np.mean(clean != data.y_train):.1%} of its clean labels differ."
        )
    return given.astype("int64")
