"""Numbers in the progress bar are those of the epoch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb

N = 64
X = np.random.default_rng(0).normal(size=(N, 5)).astype("float32")
Y = np.arange(N) % 2


def always_one():
    """A network that predicts class 1, of which there is a half."""
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(
                2,
                "softmax",
                kernel_initializer="zeros",
                bias_initializer=keras.initializers.Constant([0.0, 2.0]),
            ),
        ]
    )


def stream(*arrays):
    """A dataset of which nobody knows when it ends."""
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    return dataset.filter(lambda *_: True)


def shards(data):
    batches = kb.data.stratified_batches(data, 4, 4)
    return kb.BilevelModel(always_one(), kb.weighting.DeepBilevel(4)), batches


def examples(data):
    batches = kb.data.source_target_batches(data, (X[:8], Y[:8]), 16, 8)
    return kb.BilevelModel(always_one(), kb.weighting.Soseleto(N)), batches


def selected(data):
    batches = kb.data.stratified_batches(data, 4, 4, ids=True)
    return kb.SelectionModel(always_one(), kb.selection.SelfPaced()), batches


@pytest.mark.parametrize("kind", ["arrays", "stream"])
@pytest.mark.parametrize("make", [shards, examples, selected])
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_metrics_and_iterations_count_each_step_once(make, kind, options):
    model, batches = make((X, Y) if kind == "arrays" else stream(X, Y))
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **options,
    )
    log = model.fit(batches, epochs=3, verbose=0).history
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert expected["accuracy"] == 0.5
    np.testing.assert_allclose(log["accuracy"], [0.5] * 3)
    np.testing.assert_allclose(log["loss"], [expected["loss"]] * 3, rtol=1e-5)
    assert int(model.optimizer.iterations) == 12


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_evaluate_counts_each_batch_of_a_stream_once():
    model, _ = shards((X, Y))
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    batches = stream(X, Y).batch(16, drop_remainder=True)
    assert model.evaluate(batches, verbose=0, return_dict=True)[
        "accuracy"
    ] == pytest.approx(0.5)


def two_outputs():
    inputs = keras.Input((5,))
    hidden = layers.Dense(6, "tanh")(inputs)
    return keras.Model(
        inputs,
        {
            "kind": layers.Dense(2, "softmax", name="kind")(hidden),
            "size": layers.Dense(1, name="size")(hidden),
        },
    )


LOSSES = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
WEIGHTS = {"kind": 1.0, "size": 0.3}


def labels(shift=0.0):
    return {"kind": Y, "size": X[:, :1] + shift}


def compiled(model):
    model.compile(keras.optimizers.SGD(0.0), LOSSES, loss_weights=WEIGHTS)
    return model


@pytest.mark.parametrize(
    "weighting",
    [lambda: kb.weighting.Soseleto(N), kb.weighting.LearningToReweight],
)
def test_losses_of_outputs_are_the_source_s(weighting):
    model = compiled(kb.BilevelModel(two_outputs(), weighting()))
    target = keras.tree.map_structure(lambda a: a[:16], (X, labels(5.0)))
    batches = kb.data.source_target_batches((X, labels()), target, 32, 16)
    log = model.fit(batches, epochs=2, verbose=0).history
    expected = model.evaluate(X, labels(), verbose=0, return_dict=True)
    for name in ("kind_loss", "size_loss", "loss"):
        np.testing.assert_allclose(log[name], [expected[name]] * 2, rtol=1e-5)
    assert log["target_loss"][0] > log["loss"][0]


def test_losses_of_outputs_are_the_target_s_with_a_source_model():
    network = two_outputs()
    source = keras.Model(
        network.inputs[0],
        layers.Dense(4, "softmax")(network.layers[1].output),
    )
    model = kb.BilevelModel(
        network,
        kb.weighting.Soseleto(N),
        source_model=source,
        source_loss="sparse_categorical_crossentropy",
    )
    compiled(model)
    batches = kb.data.source_target_batches(
        (X, np.arange(N) % 4), (X, labels(5.0)), 32, 32
    )
    log = model.fit(batches, verbose=0).history
    expected = model.evaluate(X, labels(5.0), verbose=0, return_dict=True)
    for name in ("kind_loss", "size_loss", "loss"):
        np.testing.assert_allclose(log[name], [expected[name]], rtol=1e-5)


def test_losses_of_outputs_are_those_of_what_is_kept():
    model = kb.SelectionModel(
        two_outputs(),
        kb.selection.SelfPaced(),
        kb.schedules.PiecewiseSchedule([1.0, 0.5]),
    )
    compiled(model)
    log = model.fit(X, labels(), batch_size=N, epochs=2, verbose=0).history
    expected = model.evaluate(X, labels(), verbose=0, return_dict=True)
    for name in ("kind_loss", "size_loss", "loss"):
        np.testing.assert_allclose(log[name][0], expected[name], rtol=1e-5)
    np.testing.assert_allclose(
        log["loss"],
        np.add(log["kind_loss"], 0.3 * np.array(log["size_loss"])),
        rtol=1e-5,
    )
    assert log["loss"][1] < log["loss"][0]
