"""How often TensorFlow traces a step, which takes seconds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from tests.models.tools import batch_of

X, Y = batch_of(64)


def network():
    # It is built by its first batch.
    return keras.Sequential([layers.Dense(7), layers.Dense(3)])


def deep_bilevel():
    return kb.BilevelModel(network(), kb.weighting.DeepBilevel(4)), (X, Y)


def soseleto():
    data = kb.data.source_target_batches((X, Y), (X, Y), 16, 8)
    return kb.BilevelModel(network(), kb.weighting.Soseleto(64)), (data,)


def pair():
    shared = keras.Sequential([keras.Input((5,)), layers.Dense(7)])
    source = keras.Sequential([shared, layers.Dense(3)])
    target = keras.Sequential([shared, layers.Dense(3)])
    data = kb.data.source_target_batches((X, Y), (X, Y), 16, 8)
    model = kb.BilevelModel(
        target, kb.weighting.LearningToReweight(), source_model=source
    )
    return model, (data,)


def selection():
    rule = kb.selection.CoTeaching()
    model = kb.SelectionModel([network(), network()], rule)
    return model, (X, Y)


def traces(model):
    """Counts the calls of `train_step`, all of which trace."""
    counted = []
    step = model.train_step
    model.train_step = lambda data: counted.append(1) or step(data)
    return counted


def compiled(model, **options):
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


@pytest.mark.parametrize("make", [deep_bilevel, soseleto, pair, selection])
def test_fit_traces_its_step_once(make):
    model, data = make()
    counted = traces(compiled(model))
    history = kb.callbacks.ExampleHistory(64)
    arguments = {"batch_size": 16} if len(data) > 1 else {}
    model.fit(*data, epochs=2, verbose=0, callbacks=[history], **arguments)
    assert len(counted) == 1


@pytest.mark.parametrize("make", [deep_bilevel, selection])
def test_labels_with_another_axis_train_in_a_step_of_their_own(make):
    model, (x, y) = make()
    compiled(model).fit(x, y, batch_size=16, verbose=0)
    before = model.get_weights()[0]
    model.fit(x, y[:, None], batch_size=16, verbose=0)
    assert np.any(model.get_weights()[0] != before)


def test_train_on_batch_traces_its_step_once():
    model, data = deep_bilevel()
    counted = traces(compiled(model))
    for batch in (data, tuple(map(tf.constant, data))):
        model.train_on_batch(*batch)
    assert len(counted) == 1


@pytest.mark.parametrize("kind", ["shards", "examples", "selection"])
def test_eager_steps_train_what_is_built_by_a_real_call(kind):
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation=layers.PReLU()),
            layers.Dense(3),
        ]
    )
    data = (X, Y)
    if kind == "selection":
        model = kb.SelectionModel(network, kb.selection.SelfPaced())
    elif kind == "shards":
        model = kb.BilevelModel(network, kb.weighting.DeepBilevel(4))
    else:
        model = kb.BilevelModel(network, kb.weighting.LearningToReweight())
        data = (kb.data.source_target_batches((X, Y), (X, Y), 16, 8),)
    compiled(model, run_eagerly=True)
    batch_size = None if kind == "examples" else 16
    model.fit(*data, batch_size=batch_size, verbose=0)
    slopes = network.layers[0].activation.alpha.numpy()
    assert np.any(slopes != 0)


def test_eager_steps_need_no_symbolic_ones():
    def loss(y, y_pred):
        keras.ops.convert_to_numpy(y_pred)
        return keras.losses.sparse_categorical_crossentropy(y, y_pred, True)

    model, data = deep_bilevel()
    model.compile("sgd", loss, run_eagerly=True)
    x, y = data
    before = model.predict(x, verbose=0)
    batches = tf.data.Dataset.from_tensors(data)
    log = model.fit(batches, verbose=0).history
    expected = np.log(np.exp(before).sum(1)) - before[np.arange(len(x)), y]
    np.testing.assert_allclose(log["loss"][0], expected.mean(), rtol=1e-5)
    assert np.abs(model.predict(x, verbose=0) - before).max() > 0


def test_what_has_no_symbolic_twin_is_left_to_the_trace():
    model = kb.BilevelModel(
        keras.Sequential([layers.TextVectorization(), network()]),
        kb.weighting.DeepBilevel(2),
    )
    compiled(model)
    words = np.array([["a"], ["b"]])
    model.build_before_trace((words, np.array([0, 1])))
    assert not model.metrics[-1].built
