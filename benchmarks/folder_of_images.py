"""A folder of images with wrong labels in, suspects and a better model out.

Images of CIFAR-10 are written into a folder for each class, and a share of them
into a wrong one. From there on nothing but the folder is used, as in
`docs/folder_of_images.md`; the truth is only for the measures.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers
from matplotlib.figure import Figure

import keras_bilevel as kb
from benchmarks import figures
from benchmarks import measures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

SETTINGS = {
    "classes": ["automobile", "frog", "ship"],
    "per_class": 400,
    "noise": 0.4,
    "epochs": 60,
    "learning_rate": 0.02,
    "num_shards": 32,
    "shard_size": 4,
    "keep": 0.6,
}
PRESETS = {"quick": {"seeds": [0]}, "paper": {"seeds": [0, 1, 2]}}
ROWS = {
    "plain Keras, on the folder": "before",
    "Deep Bilevel, on the folder": "bilevel",
    "plain Keras, on what is kept": "after",
    "plain Keras, on what its own curves keep": "after_plain",
}


def write_folder(folder, settings, data_dir=None):
    """Writes images as `folder/<given label>/<id>.png`.

    Args:
        folder: `pathlib.Path`.
        settings: Dict with the entries of `SETTINGS` and a `seed`.
        data_dir: Folder with prepared TensorFlow Datasets. `None` downloads.

    Returns:
        Tuple of a dict from a file's name to its true class, and of the clean
        test images and labels of the classes.
    """
    # Takes seconds to import.
    import tensorflow_datasets as tfds

    (train, test), info = tfds.load(
        "cifar10",
        # About 500 of each class.
        split=["train[:10%]", "test"],
        data_dir=data_dir,
        download=data_dir is None,
        batch_size=-1,
        with_info=True,
    )
    names = info.features["label"].names
    train, test = tfds.as_numpy(train), tfds.as_numpy(test)
    classes, rng = settings["classes"], np.random.default_rng(settings["seed"])
    truth = {}
    for name in classes:
        (folder / name).mkdir(parents=True)
    for name in classes:
        others = [other for other in classes if other != name]
        rows = np.flatnonzero(train["label"] == names.index(name))
        rows = rng.permutation(rows)[: settings["per_class"]]
        wrong = round(settings["noise"] * len(rows))
        given = [*rng.choice(others, wrong), *[name] * (len(rows) - wrong)]
        for row, label in zip(rows, given):
            file = f"{train['id'][row].decode()}.png"
            image = train["image"][row]
            keras.utils.save_img(folder / label / file, image, scale=False)
            truth[file] = name
    y_test = np.array([names[label] for label in test["label"]])
    x_test = test["image"][np.isin(y_test, classes)].astype("float32")
    y_test = y_test[np.isin(y_test, classes)]
    return truth, (x_test, np.array([classes.index(name) for name in y_test]))


def network(num_classes):
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(num_classes),
        ]
    )


def find_suspects(folder, settings, csv):
    """Trains on a folder and writes which of its files are suspect.

    Args:
        folder: Folder with a folder of images for each class.
        settings: Dict with the entries of `SETTINGS` and a `seed`.
        csv: Path of the file to write.

    Returns:
        Tuple of the dataset of single images, the paths of their files, the
        history and the model.
    """
    images = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(32, 32),
        # Single examples, in the order of `file_paths`.
        batch_size=None,
        shuffle=False,
        verbose=False,
    )
    paths = [Path(path) for path in images.file_paths]
    names = images.class_names
    batches = kb.data.stratified_batches(
        images.cache(),
        num_shards=settings["num_shards"],
        shard_size=settings["shard_size"],
        ids=True,
        # The folder is sorted by class: one chunk has all of them.
        shuffle_buffer=len(paths),
        seed=settings["seed"],
    )
    history = kb.callbacks.ExampleHistory(len(paths))
    model = networks.bilevel(network(len(names)), settings["num_shards"])
    networks.compiled(model, settings["learning_rate"], momentum=0.9)
    model.fit(
        batches, epochs=settings["epochs"], callbacks=[history], verbose=0
    )
    y = np.array([int(label) for label in images.map(lambda x, y: y)])
    files = [f"{path.parent.name}/{path.name}" for path in paths]
    kb.report.write_csv(history, csv, y, ids=files, class_names=names)
    return images, paths, history, model


def train_plainly(images, settings, num_classes):
    """Trains with plain Keras on single images.

    Returns:
        Tuple of the network and of `LabelCurves` of its training.
    """
    x, y = map(np.array, zip(*images.as_numpy_iterator()))
    curves = kb.callbacks.LabelCurves(x, y)
    net = network(num_classes)
    networks.compiled(net, settings["learning_rate"], momentum=0.9)
    net.fit(
        x,
        y,
        batch_size=settings["num_shards"] * settings["shard_size"],
        epochs=settings["epochs"],
        callbacks=[curves],
        verbose=0,
    )
    return net, curves


def measure(folder, settings, data_dir=None):
    """Goes the whole path in a folder and returns what came of it."""
    folder = Path(folder)
    keras.utils.set_random_seed(settings["seed"])
    truth, (x, y) = write_folder(folder / "images", settings, data_dir)
    count = len(settings["classes"])
    images, paths, history, model = find_suspects(
        folder / "images", settings, folder / "suspects.csv"
    )
    kept = kb.report.cleaned(history, images, keep=settings["keep"])
    before, curves = train_plainly(images, settings, count)
    after, _ = train_plainly(kept, settings, count)
    kept = kb.report.cleaned(curves, images, keep=settings["keep"])
    after_plain, _ = train_plainly(kept, settings, count)
    wrong = np.array([truth[p.name] != p.parent.name for p in paths])
    mask = kb.report.keep_mask(history, keep=settings["keep"])
    top = pd.read_csv(folder / "suspects.csv").head(100)["id"]
    return {
        "before": networks.accuracy(before, x, y),
        "bilevel": networks.accuracy(model, x, y),
        "after": networks.accuracy(after, x, y),
        "after_plain": networks.accuracy(after_plain, x, y),
        "auroc": measures.auroc(wrong, history.example_scores),
        "auroc_plain": measures.auroc(wrong, curves.example_scores),
        "wrong_kept": float(wrong[mask].mean()),
        "wrong_of_first_100": float(
            np.mean([truth[i.split("/")[1]] != i.split("/")[0] for i in top])
        ),
    }


def _run(settings, data_dir, verbose):
    with tempfile.TemporaryDirectory() as folder:
        return measure(folder, settings, data_dir)


def _plan(preset, records):
    return plans.grid([SETTINGS], plans.each("seed", preset["seeds"]))


def _report(records):
    settings = records[0]["settings"]
    accuracies = {n: render.values(records, m) for n, m in ROWS.items()}
    table = [
        ["training", "test (clean)", "runs"],
        *(
            [name, render.cell(values), str(len(values))]
            for name, values in accuracies.items()
        ),
    ]
    found = {
        name: render.cell(render.values(records, name))
        for name in ("auroc", "auroc_plain", "wrong_of_first_100", "wrong_kept")
    }
    count = len(settings["classes"]) * settings["per_class"]
    notes = [
        render.NOTES[0],
        f"{count} images of {', '.join(settings['classes'])}; "
        f"{settings['noise']:.0%} of each class lie in a wrong folder.",
        f"{settings['epochs']} epochs, SGD with rate "
        f"{settings['learning_rate']:g} and momentum 0.9; Deep Bilevel with "
        f"{settings['num_shards']} shards of {settings['shard_size']}, plain "
        "training with batches of as many images.",
        f"Suspects' AUROC {found['auroc']}, of the curves of plain training "
        f"{found['auroc_plain']}. By Deep Bilevel, share of wrong labels among "
        f"the first 100 suspects {found['wrong_of_first_100']}, among the "
        f"{settings['keep']:.0%} that are kept {found['wrong_kept']}.",
    ]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    figures.means(axes, accuracies)
    axes.set(xlabel="clean test accuracy", xlim=(0, 1))
    return render.Report("A folder of images", table, notes, figure)


EXPERIMENT = runner.Experiment(
    "folder_of_images", PRESETS, [_plan], _report, _run
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
