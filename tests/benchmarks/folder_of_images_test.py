"""A folder of images in, suspects and a better model out: the whole path."""

import pathlib
import re

import keras
import numpy as np
import pandas as pd
import pytest

import keras_bilevel as kb
from benchmarks import folder_of_images

ROOT = pathlib.Path(__file__).parents[2]
DATA_DIR = ROOT / "../shared/data/tfds"
PAGE = ROOT / "docs/folder_of_images.md"
needs_cifar10 = pytest.mark.skipif(
    not (DATA_DIR / "cifar10").exists(),
    reason=f"needs a prepared CIFAR-10 at {DATA_DIR}",
)
# Of a stream, whose length nobody knows before its end.
one_pass_to_count = pytest.mark.filterwarnings(
    "ignore:Your input ran out of data"
)


@needs_cifar10
@one_pass_to_count
def test_suspects_are_found_and_the_model_gets_better(tmp_path):
    settings = {
        **folder_of_images.SETTINGS,
        "classes": ["automobile", "frog"],
        "per_class": 300,
        "noise": 0.35,
        "keep": 0.65,
        "epochs": 30,
        "seed": 0,
    }
    found = folder_of_images.measure(tmp_path, settings, str(DATA_DIR))
    assert found["auroc"] > 0.75
    assert found["wrong_of_first_100"] > 0.7
    assert found["wrong_kept"] < 0.25
    assert found["after"] > found["before"] + 0.05

    table = pd.read_csv(tmp_path / "suspects.csv")
    assert list(table["rank"]) == list(range(1, 601))
    assert table["score"].is_monotonic_increasing
    for file, label in zip(table["id"], table["label"]):
        assert (tmp_path / "images" / file).exists()
        assert file.startswith(f"{label}/")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that has `images`, and is the working directory."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(128):
            image = rng.integers(level - 40, level + 40, (32, 32, 3), "uint8")
            path = tmp_path / "images" / name / f"={level}_{i:03}.png"
            keras.utils.save_img(path, image, scale=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@one_pass_to_count
def test_page_runs(folder):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(block.replace("epochs=60", "epochs=2"), names)
        if "model.fit(" in block:
            assert np.isfinite(names["history"].example_scores).all()
    # The stream with ids of its own.
    *_, ids = next(iter(names["batches"]))
    assert len(ids) == 128 and len(set(ids.numpy())) == 128
    assert len(names["y_kept"]) == round(0.6 * 256)
    table = pd.read_csv("suspects.csv")
    assert set(table["id"]) == set(names["files"])
    named = [pathlib.Path(file).parent.name for file in table["id"]]
    assert list(table["label"]) == named


def test_ids_are_the_positions_of_files(folder):
    images = keras.utils.image_dataset_from_directory(
        "images",
        image_size=(32, 32),
        batch_size=None,
        shuffle=False,
        verbose=False,
    )
    batches = kb.data.stratified_batches(
        images, num_shards=4, shard_size=8, ids=True, seed=0
    )
    for x, _, _, ids in batches:
        for image, i in zip(x.numpy(), ids.numpy()):
            kept = keras.utils.load_img(images.file_paths[i])
            np.testing.assert_array_equal(image, np.array(kept))
