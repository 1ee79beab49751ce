"""The user's network is the user's: its own loss, metrics and steps."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import values

X, _ = batch_of(32)
# Shards of 8 of all classes, without a rest.
Y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [12, 12, 8]))


@keras.saving.register_keras_serializable("tests")
class Plain(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.out = layers.Dense(
            3, "softmax", kernel_regularizer=keras.regularizers.L2(0.1)
        )

    def call(self, x):
        return self.out(x)


@keras.saving.register_keras_serializable("tests")
class OwnLoss(Plain):
    """Triples the loss of class 0, and adds a constant."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        factor = keras.ops.where(keras.ops.equal(y, 0), 3.0, 1.0)
        if sample_weight is not None:
            factor = factor * sample_weight
        return 100.0 + super().compute_loss(x, y, y_pred, factor, training)


@keras.saving.register_keras_serializable("tests")
class OwnLossWithoutTraining(Plain):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight)


@keras.saving.register_keras_serializable("tests")
class OwnMetrics(Plain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = keras.metrics.Sum(name="seen")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        self.seen.update_state(keras.ops.ones_like(y))
        logs["seen"] = self.seen.result()
        return logs


@keras.saving.register_keras_serializable("tests")
class OwnSteps(Plain):
    def test_step(self, data):
        return {"loss": -2.0}

    def predict_step(self, data):
        return 7.0 + super().predict_step(data)


class OwnTraining(Plain):
    def train_step(self, data):
        return {"loss": -1.0}


class Unweighed(Plain):
    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(y, y_pred)
        )


def model_of(kind, network, **kwargs):
    if kind == "selection":
        model = kb.SelectionModel(network, kb.selection.SelfPaced())
    elif kind == "shards":
        model = kb.BilevelModel(network, kb.weighting.DeepBilevel(4))
    else:
        model = kb.BilevelModel(network, kb.weighting.Soseleto(32))
    kwargs.setdefault("optimizer", keras.optimizers.SGD(0.1))
    model.compile(loss="sparse_categorical_crossentropy", **kwargs)
    return model


def fitted(kind, model, **kwargs):
    if kind == "examples":
        data = kb.data.source_target_batches((X, Y), (X, Y), 32, 8)
        return model.fit(data, verbose=0, **kwargs).history
    return model.fit(X, Y, batch_size=32, verbose=0, **kwargs).history


KINDS = ["shards", "examples", "selection"]


@pytest.mark.parametrize("kind", KINDS)
def test_own_loss_trains_as_sample_weights_do(kind):
    own, plain = OwnLoss(), Plain()
    own(X), plain(X)
    plain.set_weights(own.get_weights())
    weights = np.where(Y == 0, 3.0, 1.0).astype("float32")
    if kind == "examples":
        data = kb.data.source_target_batches(
            (X, Y, weights), (X, Y, weights), 32, 8, seed=0
        )
        same = kb.data.source_target_batches((X, Y), (X, Y), 32, 8, seed=0)
        log = model_of(kind, own).fit(same, verbose=0).history
        reference = model_of(kind, plain).fit(data, verbose=0).history
    else:
        log = fitted(kind, model_of(kind, own), shuffle=False)
        reference = fitted(
            kind, model_of(kind, plain), shuffle=False, sample_weight=weights
        )
    np.testing.assert_allclose(
        log["loss"][0], reference["loss"][0] + 100.0, rtol=1e-5
    )
    for a, b in zip(own.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [OwnLoss, OwnLossWithoutTraining])
def test_own_loss_evaluates_as_in_keras(kind, make):
    network = make()
    model = model_of(kind, network, metrics=["accuracy"])
    fitted(kind, model)
    result = model.evaluate(X, Y, verbose=0, return_dict=True)
    plain = make()
    plain(X)
    plain.set_weights(network.get_weights())
    plain.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    expected = plain.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(result) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_own_metrics_are_computed_and_begin_anew(kind):
    model = model_of(kind, OwnMetrics(), metrics=["accuracy"])
    log = fitted(kind, model, epochs=2, validation_data=(X[:16], Y[:16]))
    assert log["seen"] == [32.0, 32.0]
    assert log["val_seen"] == [16.0, 16.0]
    assert {"loss", "accuracy", "val_accuracy"} <= set(log)
    result = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert result["seen"] == 32.0
    predicted = model.predict(X, verbose=0).argmax(1)
    np.testing.assert_allclose(result["accuracy"], np.mean(predicted == Y))


@pytest.mark.parametrize("kind", KINDS)
def test_own_steps_evaluate_and_predict(kind):
    network = OwnSteps()
    model = model_of(kind, network)
    log = fitted(kind, model, validation_data=(X, Y))
    assert log["val_loss"] == [-2.0]
    assert log["loss"][0] > 0
    assert model.evaluate(X, Y, verbose=0) == -2.0
    np.testing.assert_allclose(
        model.predict(X, verbose=0), 7.0 + network(X), rtol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_own_loss_is_saved_with_the_model(kind, tmp_path):
    model = model_of(kind, OwnLoss())
    fitted(kind, model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    expected = model.evaluate(X, Y, verbose=0)
    assert expected > 100.0
    np.testing.assert_allclose(
        loaded.evaluate(X, Y, verbose=0), expected, rtol=1e-6
    )
    fitted(kind, loaded)


@pytest.mark.parametrize("kind", KINDS)
def test_own_train_step_is_an_error_that_says_why(kind):
    with pytest.raises(ValueError, match="OwnTraining, which overrides"):
        model_of(kind, OwnTraining())


@pytest.mark.parametrize("kind", ["examples", "selection"])
def test_own_loss_that_ignores_weights_is_an_error(kind):
    network = Unweighed()
    network(X)
    before = network.get_weights()
    with pytest.raises(ValueError, match="uses `sample_weight`"):
        fitted(kind, model_of(kind, network))
    for a, b in zip(before, network.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_stateful_layers_are_an_error_before_the_first_step():
    network = keras.Sequential(
        [
            keras.Input(batch_shape=(8, 5, 1)),
            layers.GRU(2, stateful=True, name="memory"),
            layers.Dense(3),
        ]
    )
    for kind in ("shards", "selection"):
        model = model_of(kind, network)
        with pytest.raises(ValueError, match="`memory` .GRU. with"):
            model.fit(X[..., None], Y, batch_size=32, verbose=0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_frozen_is_an_error(kind):
    network = Plain()
    network(X)
    network.trainable = False
    with pytest.raises(ValueError, match="weights are all frozen"):
        fitted(kind, model_of(kind, network))


@pytest.mark.parametrize("kind", KINDS)
def test_regularisers_pull_once_in_an_own_loss(kind):
    network = OwnLoss()
    network(X)
    kernel = values(network.weights)[0]
    model = model_of(kind, network, optimizer=keras.optimizers.SGD(1.0))
    if kind == "examples":
        zeros = np.zeros(len(X), "float32")
        data = kb.data.source_target_batches(
            (X, Y, zeros), (X, Y), 32, 8, shuffle=False
        )
        model.fit(data, verbose=0)
    else:
        model.fit(
            X,
            Y,
            sample_weight=np.zeros(len(X), "float32"),
            batch_size=32,
            verbose=0,
        )
    # Without data only the regulariser is left: W - 2 * 0.1 * W.
    np.testing.assert_allclose(values(network.weights)[0], 0.8 * kernel, 1e-5)
    assert network.weights[0].regularizer is not None
