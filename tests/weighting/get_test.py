"""Weightings by name."""

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import tanh_network

NAMES = {
    "deep_bilevel": kb.weighting.DeepBilevel,
    "learning_to_reweight": kb.weighting.LearningToReweight,
    "meta_weight_net": kb.weighting.MetaWeightNet,
    "soseleto": kb.weighting.Soseleto,
}


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_weighting_with_its_defaults(name):
    found = kb.BilevelModel(tanh_network(), weighting=name).weighting
    assert type(found) is NAMES[name]
    assert found.get_config() == NAMES[name]().get_config()


def test_model_by_name_is_saved_and_loaded(tmp_path):
    model = kb.BilevelModel(tanh_network(), "deep_bilevel")
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x, y = batch_of(64)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.weighting, kb.weighting.DeepBilevel)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )


def test_instance_is_itself():
    weighting = kb.weighting.Soseleto(12)
    assert kb.weighting.get(weighting) is weighting


def test_config_is_read():
    config = keras.saving.serialize_keras_object(kb.weighting.Soseleto(12))
    assert kb.weighting.get(config).num_examples == 12


def test_unknown_name_is_an_error_that_lists_the_names():
    names = "'deep_bilevel', 'learning_to_reweight', 'meta_weight_net'"
    with pytest.raises(ValueError, match=f"{names}, 'soseleto'.*'deep'"):
        kb.BilevelModel(tanh_network(), weighting="deep")


@pytest.mark.parametrize(
    "wrong", [None, 3, kb.weighting.DeepBilevel, kb.selection.CoTeaching()]
)
def test_what_is_no_weighting_is_an_error(wrong):
    with pytest.raises(ValueError, match="`weighting`. Expected.*Received"):
        kb.weighting.get(wrong)


def test_config_of_something_else_is_an_error():
    config = keras.saving.serialize_keras_object(kb.selection.CoTeaching())
    with pytest.raises(ValueError, match="`weighting`. Expected"):
        kb.weighting.get(config)
