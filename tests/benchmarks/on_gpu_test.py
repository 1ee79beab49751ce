"""The pieces of `on_gpu`, and all of it at a tiny size on a CPU."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import on_gpu
from benchmarks.journal import Journal
from tests.backends.same_numbers_test import run_with_jax


def packed(path, **counts):
    """Writes a file like that of `pack`, of random images."""
    rng = np.random.default_rng(0)
    parts, images = {}, {}
    for split, count in counts.items():
        y = np.arange(count) % 10
        x = rng.integers(256, size=(count, 32, 32, 3), dtype="uint8")
        files = []
        for image in x:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            files.append(file.getvalue())
        images[split] = x, y
        parts[f"{split}_bytes"] = np.frombuffer(b"".join(files), "uint8")
        parts[f"{split}_sizes"] = np.array([len(file) for file in files])
        parts[f"{split}_labels"] = y
    np.savez(path, **parts)
    return images


def test_images_are_unpacked(tmp_path):
    images = packed(tmp_path / "images.npz", train=5, test=3)
    found = on_gpu.unpack(tmp_path / "images.npz")
    for (x, y), expected in zip(found, images.values(), strict=True):
        np.testing.assert_array_equal(x, expected[0])
        np.testing.assert_array_equal(y, expected[1])


def test_crops_are_parts_of_the_image_or_its_mirror_image():
    x = 1 + np.arange(3 * 32 * 32).reshape(3, 32, 32, 1)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = on_gpu.crop_and_flip(np.random.default_rng(0), x)
    for image, whole in zip(found, padded):
        assert any(
            np.array_equal(seen, whole[i : i + 32, j : j + 32])
            for seen in (image, image[:, ::-1])
            for i in range(9)
            for j in range(9)
        )


@pytest.mark.parametrize("parts", [1, 4])
def test_examples_are_mixed_within_their_part(parts):
    y = np.eye(16)
    x, mixed = on_gpu.mix(np.random.default_rng(0), y, y, parts)
    np.testing.assert_array_equal(x, mixed)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
    rows, columns = np.nonzero(mixed)
    size = 16 // parts
    np.testing.assert_array_equal(rows // size, columns // size)
    assert len(rows) > 16


def test_rate_falls():
    settings = {"learning_rate": 0.1, "epochs": 8}
    steps = [on_gpu.rate({**settings, "crops": True}, e) for e in range(8)]
    np.testing.assert_allclose(steps, [0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    last = on_gpu.rate({**settings, "crops": False}, 7)
    np.testing.assert_allclose(last, 0.1 * 0.95**7)


def test_batches_are_the_same_after_a_restart():
    settings = {"seed": 0, "crops": True, "method": "mixup", "num_shards": None}
    x = np.random.default_rng(0).integers(256, size=(8, 32, 32, 3))
    y = np.arange(8)
    whole, resumed = on_gpu.Augment(settings), on_gpu.Augment(settings)
    whole(x, y)
    for augment in (whole, resumed):
        augment.on_epoch_begin(1)
    for one, other in zip(whole(x, y), resumed(x, y)):
        np.testing.assert_array_equal(one, other)


TINY = {
    "trainings": [
        {
            "network": "small_cnn",
            "learning_rate": 0.01,
            "crops": True,
            "epochs": 2,
        }
    ],
    "steps": [("small_cnn", 2, 4, "mixed_bfloat16")],
    "pairs": 1,
    "seeds": [0],
}
CALL = f"""
from benchmarks import on_gpu

on_gpu.PRESETS["quick"] = {TINY}
on_gpu.runner.main(on_gpu._choose)
"""


def test_all_pieces_are_made(tmp_path):
    pytest.importorskip("jax")
    packed(tmp_path / "images.npz", train=260, test=20)
    flags = [f"--packed={tmp_path / 'images.npz'}", f"--out={tmp_path}"]
    run_with_jax(["-c", CALL, *flags], tmp_path / "packages")
    pieces = on_gpu._plan(TINY, [])
    records = Journal(tmp_path / "on_gpu.jsonl").find(pieces)
    assert [record["settings"] for record in records] == pieces
    for record in records:
        metrics = record["metrics"]
        assert metrics["device"] == "cpu"
        if record["settings"]["kind"] == "train":
            assert len(metrics["curve"]) == 2
            assert metrics["best_test"] >= metrics["test"]
    for name in ("on_gpu", "on_gpu_steps"):
        assert (tmp_path / f"{name}.md").exists()
        assert (tmp_path / f"{name}.png").exists()
