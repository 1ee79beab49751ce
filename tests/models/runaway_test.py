"""A warning, once, where training runs away."""

import warnings

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from keras_bilevel.callbacks.runaway import loss_of_guessing
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network


def learnable():
    y = np.tile([0, 1, 2], 64)
    return np.eye(3, 5)[y].astype("float32"), y


def test_too_high_a_rate_warns_once():
    x, y = learnable()
    model = compiled(tanh_network(), None, keras.optimizers.SGD(1e4))
    with pytest.warns(UserWarning, match="run away") as caught:
        model.fit(x, y, batch_size=32, epochs=50, verbose=0)
    assert len([w for w in caught if "run away" in str(w.message)]) == 1


def test_learning_does_not_warn_even_with_heavy_regularisation():
    x, y = learnable()
    network = tanh_network(kernel_regularizer=keras.regularizers.L2(0.5))
    model = compiled(network, None, keras.optimizers.SGD(0.05))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = model.fit(x, y, batch_size=32, epochs=50, verbose=0)
    assert log.history["loss"][0] > 2 * np.log(3)


def test_dataset_of_batches_does_not_warn():
    x, y = batch_of(32)
    model = compiled(tanh_network(), None, keras.optimizers.SGD(1e4))
    batches = kb.data.stratified_batches((x, y), num_shards=4, shard_size=4)
    log = model.fit(batches, epochs=40, verbose=0).history
    # As far away as where arrays bring a warning, which would be an error.
    assert len(log["loss"]) == 40 and min(log["loss"][-5:]) > 10 * np.log(3)


def test_loss_of_guessing_is_the_entropy_of_the_labels():
    y = np.array([0, 0, 0, 2])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    loss = keras.losses.SparseCategoricalCrossentropy()
    one_hot = keras.utils.to_categorical(y, 3)
    for labels, name in (
        (y, loss),
        (y[:, None], "sparse_categorical_crossentropy"),
        (one_hot, keras.losses.CategoricalCrossentropy()),
    ):
        np.testing.assert_allclose(loss_of_guessing(labels, name), entropy)
    assert loss_of_guessing(y, "mse") is None
    assert loss_of_guessing({"a": y}, {"a": "mse"}) is None
