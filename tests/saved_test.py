"""Files that earlier versions have written are read, and train on."""

import json

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from tests.saved import write

CASES = [
    (path.parent.name, name)
    for path in sorted(write.FOLDER.glob("*/expected.json"))
    for name in json.loads(path.read_text())
]


def agree(found, expected):
    """Checks numbers to rounding; all else, and its structure, is the same.

    A later version may say more of itself than an earlier one did.
    """
    if isinstance(expected, dict):
        for key, value in expected.items():
            agree(found[key], value)
    elif isinstance(expected, list) and isinstance(expected[0], list):
        for one, other in zip(found, expected, strict=True):
            agree(one, other)
    elif isinstance(expected, list):
        # Sums of few float32 numbers of order 1, maybe in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert found == expected


@pytest.mark.parametrize("version, name", CASES)
def test_saved_model_is_read_and_trains_on(version, name):
    folder = write.FOLDER / version
    expected = json.loads((folder / "expected.json").read_text())[name]
    model = keras.saving.load_model(folder / f"{name}.keras")
    after = expected.pop("after_a_step")
    before = expected["predictions"]
    agree(
        {**write.described(model), "predictions": write.predictions(model)},
        expected,
    )
    write.step(model)
    agree(write.predictions(model), after)
    # A step that did nothing would agree with one that was forgotten.
    assert all(
        np.abs(np.subtract(a, b)).max() > 1e-3 for a, b in zip(before, after)
    )


def test_all_that_can_be_saved_was():
    folder = write.FOLDER / write.VERSION
    assert kb.__version__.startswith(write.VERSION)
    expected = json.loads((folder / "expected.json").read_text())
    files = {path.stem for path in folder.glob("*.keras")}
    assert files == set(expected) == set(write.CASES)
    seen = {model["class"] for model in expected.values()}
    for model in expected.values():
        for part in ("weighting", "rule", "schedule"):
            seen.add(model.get(part, model)["class"])
    public = {"BilevelModel", "SelectionModel"}
    for module in (kb.weighting, kb.selection, kb.schedules):
        public |= {n for n, c in vars(module).items() if isinstance(c, type)}
    # Those which others are made from.
    bases = {"Weighting", "ShardWeighting", "ExampleWeighting"}
    assert public - bases - {"Rule", "Schedule"} == seen
