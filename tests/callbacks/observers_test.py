"""Callbacks that see every step."""

import copy
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import values


def still(**kwargs):
    """A model that does not learn: its predictions never change."""
    return compiled(tanh_network(), None, keras.optimizers.SGD(0.0), **kwargs)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_example_history_is_the_mean_probability_of_the_label(
    one_hot, from_logits
):
    x, y = batch_of(64)
    network = tanh_network()
    if not from_logits:
        network.add(keras.layers.Softmax())
    labels = keras.utils.to_categorical(y, 3) if one_hot else y
    kind = "Categorical" if one_hot else "SparseCategorical"
    loss = getattr(keras.losses, f"{kind}Crossentropy")
    model = compiled(
        network,
        None,
        keras.optimizers.SGD(0.0),
        loss=loss(from_logits=from_logits),
    )
    history = kb.callbacks.ExampleHistory(64)
    model.fit(
        x, labels, batch_size=16, epochs=3, verbose=0, callbacks=[history]
    )
    predicted = network.predict(x, verbose=0)
    if from_logits:
        predicted = np.exp(predicted) / np.exp(predicted).sum(1, keepdims=True)
    seen = ~np.isnan(history.given_probability)
    assert seen.sum() >= 48
    np.testing.assert_allclose(
        history.given_probability[seen],
        predicted[np.arange(64), y][seen],
        rtol=1e-5,
    )
    suspects = kb.report.suspects(history)["id"]
    assert len(suspects) == seen.sum()
    assert np.all(np.diff(history.given_probability[suspects]) >= 0)


def test_example_history_of_two_classes_and_one_logit():
    x, y = batch_of(32, classes=2)
    model = compiled(
        tanh_network(classes=1),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.0),
    )
    history = kb.callbacks.ExampleHistory(32)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[history])
    logits = model.predict(x, verbose=0)[:, 0]
    expected = 1 / (1 + np.exp(-np.where(y == 1, logits, -logits)))
    seen = ~np.isnan(history.given_probability)
    np.testing.assert_allclose(
        history.given_probability[seen], expected[seen], rtol=1e-5
    )


def test_example_history_finds_wrong_labels():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = np.eye(3)[y] + 0.2 * rng.normal(size=(300, 3))
    noisy, wrong = kb.data.noise.symmetric(y, 0.3, seed=1)
    model = compiled(tanh_network(3, 16), kb.weighting.DeepBilevel(8))
    history = kb.callbacks.ExampleHistory(300)
    model.fit(
        x, noisy, batch_size=32, epochs=20, verbose=0, callbacks=[history]
    )
    worst = kb.report.suspects(history)["id"][: wrong.sum()]
    assert wrong[worst].mean() > 0.9


def test_example_history_without_ids_is_an_error():
    x, y = batch_of(16)
    history = kb.callbacks.ExampleHistory(16)
    with pytest.raises(ValueError, match="ids=True"):
        still().fit(batched(x, y), verbose=0, callbacks=[history])


def test_example_history_too_small_is_an_error():
    x, y = batch_of(32)
    history = kb.callbacks.ExampleHistory(8)
    with pytest.raises(ValueError, match="num_examples.*Received"):
        still().fit(x, y, batch_size=16, verbose=0, callbacks=[history])


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_weight_history_keeps_the_last_steps(steps_per_execution):
    x, y = batch_of(16)
    model = still(steps_per_execution=steps_per_execution)
    whole = kb.callbacks.WeightHistory(capacity=100)
    last = kb.callbacks.WeightHistory(capacity=5)
    batches = [batch_of(16, seed=seed) for seed in range(12)]
    xs, ys = (np.concatenate(parts) for parts in zip(*batches))
    dataset = tf.data.Dataset.from_tensor_slices((xs, ys)).batch(
        16, drop_remainder=True
    )
    model.fit(dataset, verbose=0, callbacks=[whole, last])
    assert whole.num_steps == last.num_steps == 12
    assert whole.weights.shape == (12, 3)
    np.testing.assert_array_equal(last.weights, whole.weights[-5:])
    np.testing.assert_allclose(np.abs(whole.weights).sum(1), 1.0, rtol=1e-5)
    assert len(whole.plot().lines) == 2


def test_observers_deep_copy_before_use():
    # KerasTuner copies callbacks for each trial.
    x, y = batch_of(32)
    weights = copy.deepcopy(kb.callbacks.WeightHistory())
    examples = copy.deepcopy(kb.callbacks.ExampleHistory(32))
    model = still()
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[weights, examples])
    assert weights.weights.shape == (1, 3)
    logits = model.predict(x, verbose=0)
    expected = np.exp(logits[np.arange(32), y]) / np.exp(logits).sum(1)
    seen = ~np.isnan(examples.given_probability)
    assert seen.sum() == 16
    np.testing.assert_allclose(
        examples.given_probability[seen], expected[seen], rtol=1e-5
    )


def test_observers_leave_with_the_fit_that_had_them():
    x, y = batch_of(32)
    model = still()
    history = kb.callbacks.WeightHistory()
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[history])
    seen = history.num_steps
    model.fit(x, y, batch_size=16, verbose=0)
    assert history.num_steps == seen


def test_saved_model_with_history_loads_without_it(tmp_path):
    x, y = batch_of(32)
    model = still()
    history = kb.callbacks.ExampleHistory(32)
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[history])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_label_curves_know_given_and_clean_labels():
    x, y = batch_of(60)
    given = (y + 1) % 3
    network = tanh_network()
    network.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    curves = kb.callbacks.LabelCurves(x, given, y, (x, y), every=2)
    network.fit(x, given, epochs=3, verbose=0, callbacks=[curves])
    predicted = network.predict(x, verbose=0)
    accuracy = np.mean(predicted.argmax(1) == y)
    assert curves.curves["epoch"] == [2, 3]
    np.testing.assert_allclose(curves.curves["test"], [accuracy] * 2)
    np.testing.assert_allclose(curves.curves["train_clean"], [accuracy] * 2)
    np.testing.assert_allclose(
        curves.curves["train_given"],
        [np.mean(predicted.argmax(1) == given)] * 2,
    )
    probability = np.exp(predicted) / np.exp(predicted).sum(1, keepdims=True)
    np.testing.assert_allclose(
        curves.given_probability,
        probability[np.arange(60), given],
        rtol=1e-5,
    )
    assert len(curves.plot().lines) == 3
    scores = kb.report.suspects(curves)["score"]
    np.testing.assert_array_equal(scores, np.sort(curves.example_scores))


def test_an_observer_from_public_names():
    # The example of the docstring, as it stands there.
    code = kb.callbacks.Observer.__doc__.split("```")[1]
    names = {"kb": kb, "keras": keras}
    exec(textwrap.dedent(code.removeprefix("python")), names)
    x, y = batch_of(32)
    mean, weights = names["MeanWeight"](), kb.callbacks.WeightHistory()
    still().fit(x, y, batch_size=16, verbose=0, callbacks=[mean, weights])
    assert mean.get_state()["steps"] == weights.num_steps > 0
    np.testing.assert_allclose(mean.result(), weights.weights.mean(), rtol=1e-5)


def test_an_observer_without_observe_is_an_error():
    with pytest.raises(NotImplementedError, match="must implement `observe"):
        kb.callbacks.Observer().observe(None)


@pytest.mark.parametrize("kind", ["arrays", "batches", "stream"])
def test_number_of_examples_is_that_of_the_data(kind):
    x, y = batch_of(64)
    data = {
        "arrays": (x, y),
        "batches": (kb.data.stratified_batches((x, y), 8, 4, ids=True),),
        "stream": (
            kb.data.stratified_batches(
                tf.data.Dataset.from_tensor_slices((x, y)), 8, 4, ids=True
            ).apply(tf.data.experimental.assert_cardinality(1)),
        ),
    }
    history = kb.callbacks.ExampleHistory()
    still().fit(*data[kind], epochs=2, verbose=0, callbacks=[history])
    assert history.example_scores.shape == (64,)


def test_unknown_number_of_examples_is_an_error():
    x, y = batch_of(64)
    batches = kb.data.stratified_batches((x, y), 8, 4, ids=True)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=batches.element_spec
    )
    with pytest.raises(ValueError, match="Expected `num_examples`.*Received"):
        still().fit(
            unknown, verbose=0, callbacks=[kb.callbacks.ExampleHistory()]
        )


def test_a_history_that_is_too_short_is_an_error_for_datasets_too():
    x, y = batch_of(64)
    batches = kb.data.stratified_batches((x, y), 8, 4, ids=True)
    with pytest.raises(ValueError, match="at least the number of training"):
        still().fit(
            batches, verbose=0, callbacks=[kb.callbacks.ExampleHistory(63)]
        )


@pytest.mark.parametrize("name", ["ExampleHistory", "SelectionHistory"])
def test_history_without_a_number_says_that_it_saw_nothing(name):
    history = getattr(kb.callbacks, name)()
    with pytest.raises(ValueError, match=f"{name}` to have seen training"):
        history.example_scores


def test_weights_of_batches_of_two_sizes_are_an_error():
    history = kb.callbacks.WeightHistory()
    model = compiled(tanh_network(), kb.weighting.Soseleto(64))
    x, y = batch_of(64)
    for size in (16, 32):
        dataset = kb.data.source_target_batches((x, y), (x, y), size, 4)
        if size == 32:
            with pytest.raises(ValueError, match="after others"):
                model.fit(dataset, verbose=0, callbacks=[history])
        else:
            model.fit(dataset, verbose=0, callbacks=[history])
    varied = kb.data.source_target_batches(
        (x, y), (x, y), 24, 4, drop_remainder=False
    )
    history = kb.callbacks.WeightHistory()
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.fit(varied, verbose=0, callbacks=[history])


HISTORIES = ["ExampleHistory", "WeightHistory", "SelectionHistory"]


@pytest.mark.parametrize("name", HISTORIES)
def test_observers_of_other_models_are_refused(name):
    x, y = batch_of(16)
    network = tanh_network()
    network.compile("sgd", still().loss)
    with pytest.raises(ValueError, match="Received: a `Sequential`. Wrap"):
        network.fit(x, y, callbacks=[getattr(kb.callbacks, name)()], verbose=0)


def test_a_selection_history_needs_a_selection():
    x, y = batch_of(64)
    before = values((model := still()).variables)
    with pytest.raises(ValueError, match="Use `kb.callbacks.ExampleHistory`"):
        model.fit(x, y, callbacks=[kb.callbacks.SelectionHistory()], verbose=0)
    for a, b in zip(before, values(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)
