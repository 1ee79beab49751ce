"""Trials begin alike with one model for all."""

import keras
import keras_tuner
import numpy as np
import pytest

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import tanh_network
from tests.models.tools import values


def make():
    keras.utils.set_random_seed(0)
    model = kb.SelectionModel(
        [tanh_network(), tanh_network()], kb.selection.CoTeaching()
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def hypermodel():
    return kb.tuners.ReusedModel(
        make, lambda tau: kb.schedules.ConstantSchedule(tau)
    )


def trained(model):
    x, y = batch_of(32)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return values(model.weights)


def test_every_trial_equals_that_of_a_new_model():
    reused = hypermodel()
    trained(reused.build(0.75))
    again = trained(reused.build(0.25))
    new = make()
    new.schedule = kb.schedules.ConstantSchedule(0.25)
    for a, b in zip(again, trained(new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_every_trial_begins_without_a_memory():
    def make():
        model = kb.SelectionModel(tanh_network(), kb.selection.EarlyLearning())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        return model

    schedule = kb.schedules.ConstantSchedule(0.0)
    reused = kb.tuners.ReusedModel(make, lambda hp: schedule)
    first = trained(reused.build(None))
    memory = reused.build(None).rule.targets
    np.testing.assert_array_equal(memory, np.zeros_like(memory))
    for a, b in zip(first, trained(reused.build(None)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_second_trial_traces_nothing():
    reused = hypermodel()
    model = reused.build(0.5)
    trained(model)
    step = model.train_function
    assert reused.build(0.2) is model
    trained(model)
    assert model.train_function is step


def test_network_that_is_not_built_is_an_error():
    def unbuilt():
        model = kb.SelectionModel(
            keras.Sequential([keras.layers.Dense(3)]), kb.selection.SelfPaced()
        )
        model.compile("sgd", "mse")
        return model

    reused = kb.tuners.ReusedModel(unbuilt, lambda hp: None)
    with pytest.raises(ValueError, match="Expected built networks"):
        reused.build(None)


def test_best_models_are_those_of_their_trials(tmp_path):
    x, y = batch_of(32)

    def tuner(max_trials):
        schedule = kb.schedules.S2ESchedule.from_hyperparameters
        return kb.tuners.S2ETuner(
            kb.tuners.ReusedModel(make, lambda hp: schedule(hp, epochs=4)),
            keras_tuner.Objective("val_loss", "min"),
            max_trials=max_trials,
            seed=0,
            directory=str(tmp_path),
        )

    def search(tuner):
        data = {"validation_data": (x, y), "batch_size": 16, "epochs": 4}
        tuner.search(x, y, **data, verbose=0)

    first = tuner(3)
    search(first)
    trials = first.oracle.get_best_trials(3)
    scores = [trial.score for trial in trials]
    assert len(set(scores)) == 3
    going_on = tuner(4)
    models = [*going_on.get_best_models(3), *going_on.get_best_models()]
    search(going_on)
    found = [model.evaluate(x, y, verbose=0) for model in models]
    np.testing.assert_allclose(found, [*scores, scores[0]], rtol=1e-5)
    alphas = [model.schedule.alpha[0] for model in models[:3]]
    values = [trial.hyperparameters["schedule_alpha_0"] for trial in trials]
    np.testing.assert_allclose(alphas, values)


def test_new_models_leave_that_of_the_trials():
    reused = hypermodel()
    model = reused.build(0.5)
    first = values(model.variables)
    with reused.anew():
        other = reused.build(0.2)
    assert other is not model
    trained(other)
    trained(model)
    assert reused.build(0.2) is model
    for a, b in zip(first, values(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)
