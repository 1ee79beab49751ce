"""One step against NumPy, and a Keras model otherwise."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bilevel as kb
from tests.models.fit_test import Stop
from tests.models.fit_test import StopAt
from tests.models.fit_test import noisy_network
from tests.models.native_test import NETWORKS
from tests.models.native_test import compile_two_outputs
from tests.models.native_test import two_output_data
from tests.models.native_test import two_outputs
from tests.models.nonfinite_test import network as bn_network
from tests.models.reference import loss_and_gradient
from tests.models.tools import batch_of
from tests.models.tools import tanh_network
from tests.models.tools import train_step
from tests.models.tools import values

COTEACHING = kb.selection.CoTeaching()


def compiled(networks, rule=COTEACHING, tau=0.4, optimizer=None, **kwargs):
    options = {
        key: kwargs.pop(key)
        for key in ("predict_with", "schedule")
        if key in kwargs
    }
    options.setdefault("schedule", kb.schedules.CoTeachingSchedule(tau, t_k=2))
    model = kb.SelectionModel(networks, rule, **options)
    kwargs.setdefault(
        "loss", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1), **kwargs)
    return model


def pair():
    keras.utils.set_random_seed(3)
    return [tanh_network(), tanh_network()]


def float64(network):
    return [v.numpy().astype("float64") for v in network.trainable_variables]


def single_losses(weights, x, y):
    return np.array(
        [loss_and_gradient(weights, *e)[0] for e in zip(x[:, None], y[:, None])]
    )


def smallest(losses, count):
    return np.sort(np.argsort(losses, kind="stable")[:count])


@pytest.mark.parametrize("rule, own", [("CoTeaching", 1), ("SelfPaced", 0)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_equal_two_networks_trained_by_hand(rule, own, jit_compile):
    x, y = batch_of(32)
    model = compiled(
        pair(), getattr(kb.selection, rule)(), jit_compile=jit_compile
    )
    by_hand = [float64(n) for n in model.models]
    for epoch, count in ((0, 32), (1, 26), (2, 20)):  # R(t) = 1, 0.8, 0.6
        picked = [
            smallest(single_losses(weights, x, y), count) for weights in by_hand
        ]
        if own:
            picked = picked[::-1]
        for weights, rows in zip(by_hand, picked):
            gradient = loss_and_gradient(weights, x[rows], y[rows])[1]
            for w, g in zip(weights, gradient):
                w -= 0.1 * g
        model.epoch = epoch
        model.train_on_batch(x, y)
    for network, weights in zip(model.models, by_hand):
        for a, b in zip(values(network.trainable_variables), weights):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_keeping_all_equals_plain_keras():
    x, y = batch_of(64)
    networks = pair()
    plain = keras.models.clone_model(networks[0])
    plain.set_weights(networks[0].get_weights())
    model = compiled(
        networks[:1],
        kb.selection.SelfPaced(),
        tau=0.0,
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
    )
    plain.compile(keras.optimizers.Adam(0.01), model.loss, metrics=["accuracy"])
    batches = kb.data.shuffled_batches((x, y), 16, seed=1)
    own = model.fit(batches, epochs=3, verbose=0).history
    for counter in kb.data.epoch_counters(batches):
        counter.set(0)
    stock = plain.fit(
        batches.map(lambda x, y, w, i: (x, y)),
        epochs=3,
        shuffle=False,
        verbose=0,
    ).history
    np.testing.assert_allclose(own["loss"], stock["loss"], rtol=1e-5)
    np.testing.assert_allclose(own["accuracy"], stock["accuracy"])
    np.testing.assert_allclose(own["kept"], 1.0)
    for a, b in zip(plain.get_weights(), networks[0].get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_regularisers_pull_at_full_strength():
    x, y = batch_of(32)
    network = tanh_network(kernel_regularizer=keras.regularizers.L2(0.3))
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    model = compiled(network, kb.selection.SelfPaced(), tau=0.0)
    plain.compile(keras.optimizers.SGD(0.1), model.loss)
    logs = model.train_on_batch(x, y, return_dict=True)
    stock = plain.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], stock["loss"], rtol=1e-5)
    for a, b in zip(plain.get_weights(), network.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_decoupling_without_disagreement_changes_nothing():
    x, y = batch_of(16)
    networks = pair()
    networks[1].set_weights(networks[0].get_weights())
    model = compiled(networks, kb.selection.Decoupling(), schedule=None)
    before = values(model.variables)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["kept"] == 0.0
    assert np.isnan(logs["loss"])  # The mean of nothing.
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)


def test_fit_tells_the_rule_the_epoch():
    x, y = batch_of(16)
    networks = pair()
    networks[1].set_weights(networks[0].get_weights())
    model = compiled(networks, kb.selection.CoTeachingPlus(warm_up=1))
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    # Equal networks learn alike, and so never disagree.
    assert history["kept"] == [1.0, 0.0]


def test_weight_zero_is_neither_counted_nor_kept():
    x, y = batch_of(32)
    weight = np.ones(32, "float32")
    weight[20:] = 0.0
    whole, part = compiled(pair()), compiled(pair())
    whole.epoch = part.epoch = 2
    whole.train_on_batch(x, y, sample_weight=weight)
    part.train_on_batch(x[:20], y[:20])
    for a, b in zip(values(whole.weights), values(part.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_weights_scale_losses_but_not_ranks():
    x, y = batch_of(32)
    steps = []
    for scale in (1.0, 0.01):
        model = compiled(pair(), optimizer=keras.optimizers.SGD(0.0))
        model.epoch = 2
        weight = np.ones(32, "float32")
        weight[::2] = scale
        steps.append(train_step(model, x, y, weight))
    np.testing.assert_array_equal(steps[0].weights, steps[1].weights)
    assert not np.allclose(steps[0].losses, steps[1].losses)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_example_leaves_the_step_of_the_others(bad):
    x, y = batch_of(32)
    keras.utils.set_random_seed(3)
    whole = compiled([bn_network(), bn_network()])
    x[4, 1] = bad
    whole.epoch = 2
    before = values(whole.trainable_variables)
    logs = whole.train_on_batch(x, y, return_dict=True)
    assert logs["dropped_examples"] == 1
    assert all(np.all(np.isfinite(v)) for v in values(whole.variables))
    assert np.all(np.isfinite(list(logs.values())))
    moved = [
        np.any(a != b)
        for a, b in zip(before, values(whole.trainable_variables))
    ]
    assert any(moved)


def test_nan_example_equals_a_batch_without_it():
    x, y = batch_of(32)
    x[4, 1] = np.nan
    with_bad, without = compiled(pair()), compiled(pair())
    with_bad.epoch = without.epoch = 2
    with_bad.train_on_batch(x, y)
    rows = np.arange(32) != 4
    without.train_on_batch(x[rows], y[rows])
    for a, b in zip(values(with_bad.weights), values(without.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_only_bad_examples_change_nothing():
    x, y = batch_of(16)
    model = compiled([bn_network(), bn_network()])
    before = values(model.variables)
    logs = model.train_on_batch(x * np.nan, y, return_dict=True)
    assert logs["dropped_examples"] == 16
    names = [v.path for v in model.variables]
    for name, a, b in zip(names, before, values(model.variables)):
        np.testing.assert_array_equal(a, b, name)


def test_float16_overflow_lowers_the_scale_and_skips_the_step():
    networks = [bn_network("mixed_float16"), bn_network("mixed_float16")]
    for network in networks:
        network.dtype_policy = keras.DTypePolicy("mixed_float16")
    model = compiled(networks)
    x, y = batch_of(32)
    model.train_on_batch(x, y)
    scale = float(model.optimizer.dynamic_scale)
    before = values(model.trainable_variables)
    x[3, 1] = 1e30
    model.train_on_batch(x, y)
    assert float(model.optimizer.dynamic_scale) == scale / 2
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)
    assert all(np.all(np.isfinite(v)) for v in values(model.variables))


@pytest.mark.parametrize("network", NETWORKS)
def test_fits_evaluates_predicts_and_saves(network, tmp_path):
    x, y = batch_of(64)
    model = compiled(
        [network(), network()], optimizer="adam", metrics=["accuracy"]
    )
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert {"loss", "accuracy", "kept"} <= set(history.history)
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        predicted, model.models[0].predict(x, verbose=0), rtol=1e-6
    )
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded.rule, kb.selection.CoTeaching)
    assert loaded.schedule.get_config() == model.schedule.get_config()
    for a, b in zip(loaded.models, model.models):
        np.testing.assert_allclose(
            a.predict(x, verbose=0), b.predict(x, verbose=0), rtol=1e-6
        )
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_allclose(a.numpy(), b.numpy())
    loaded.fit(x, y, batch_size=16, initial_epoch=2, epochs=3, verbose=0)


def test_mean_of_all_networks_predicts_and_evaluates():
    x, y = batch_of(32)
    model = compiled(pair(), predict_with="mean")
    mean = np.mean([n.predict(x, verbose=0) for n in model.models], axis=0)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), mean, rtol=1e-5, atol=1e-6
    )
    expected = float(model.loss(y, mean))
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0), expected, rtol=1e-5
    )


def test_export_serves_what_predicts(tmp_path):
    import tensorflow as tf

    x, y = batch_of(8)
    for name in ("first", "mean"):
        model = compiled(pair(), predict_with=name)
        model.train_on_batch(x, y)
        model.export(str(tmp_path / name), verbose=False)
        served = tf.saved_model.load(str(tmp_path / name))
        np.testing.assert_allclose(
            served.serve(x), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
        )


def test_dict_inputs_outputs_losses_and_metrics():
    x, y = two_output_data()
    model = kb.SelectionModel([two_outputs(), two_outputs()], COTEACHING)
    compile_two_outputs(model)
    stock = two_outputs()
    compile_two_outputs(stock)
    own = model.fit(x, y, batch_size=16, verbose=0).history
    reference = stock.fit(x, y, batch_size=16, verbose=0).history
    assert set(own) - {"kept", "dropped_examples"} == set(reference)
    np.testing.assert_allclose(
        own["loss"][0],
        own["kind_loss"][0] + 0.3 * own["size_loss"][0],
        rtol=1e-4,
    )


def test_schedule_follows_the_epoch_of_fit():
    x, y = batch_of(40)
    model = compiled(pair())
    kept = model.fit(x, y, batch_size=20, epochs=4, verbose=0).history["kept"]
    np.testing.assert_allclose(kept, [1.0, 0.8, 0.6, 0.6])
    resumed = compiled(pair()).fit(
        x, y, batch_size=20, initial_epoch=1, epochs=3, verbose=0
    )
    np.testing.assert_allclose(resumed.history["kept"], [0.8, 0.6])


def test_steps_per_execution_and_eager_give_the_same_weights():
    results = []
    for options in ({}, {"steps_per_execution": 2}, {"run_eagerly": True}):
        x, y = batch_of(64)
        model = compiled(pair(), **options)
        keras.utils.set_random_seed(1)
        model.fit(x, y, batch_size=16, epochs=3, verbose=0)
        results.append(values(model.weights))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_class_weight_validation_split_and_shuffle_are_keras_own():
    x, y = batch_of(50)
    model = compiled(pair(), tau=0.0)
    model.fit(
        x,
        y,
        batch_size=10,
        validation_split=0.2,
        class_weight={0: 2.0},
        shuffle=False,
        verbose=0,
    )
    by_hand = compiled(pair(), tau=0.0)
    for i in range(4):
        rows = slice(10 * i, 10 * i + 10)
        by_hand.train_on_batch(
            x[rows], y[rows], sample_weight=np.where(y[rows] == 0, 2.0, 1.0)
        )
    for a, b in zip(values(model.weights), values(by_hand.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_history_knows_what_was_kept():
    x, y = batch_of(40)
    model = compiled(pair())
    history = kb.callbacks.SelectionHistory(41)
    examples = kb.callbacks.ExampleHistory(40)
    model.fit(
        x, y, batch_size=20, epochs=3, verbose=0, callbacks=[history, examples]
    )
    assert history.kept.shape == (3, 41)
    # Both networks keep 20, 16 and 12 of each batch of 20.
    np.testing.assert_array_equal(
        np.maximum(history.kept, 0).sum(1), [80, 64, 48]
    )
    assert np.all(history.kept[:, 40] == -1)
    scores = history.example_scores
    np.testing.assert_allclose(scores[:40], history.kept[:, :40].mean(0) / 2)
    assert np.isnan(scores[40])
    assert np.all(np.isfinite(examples.given_probability))


def resumable_run(folder, *callbacks):
    keras.utils.set_random_seed(7)
    x, y = batch_of(96)
    model = compiled(
        [noisy_network(), noisy_network()],
        optimizer=keras.optimizers.Adam(0.01),
    )
    history = kb.callbacks.SelectionHistory(96)
    backup = keras.callbacks.BackupAndRestore(folder)
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=5,
        verbose=0,
        callbacks=[backup, history, *callbacks],
    )
    return [
        *values(model.weights),
        *values(model.optimizer.variables),
        history.kept,
    ]


def test_interrupted_run_resumes_to_the_same_result(tmp_path):
    whole = resumable_run(tmp_path / "a")
    with pytest.raises(Stop):
        resumable_run(tmp_path / "b", StopAt(3, 1))
    resumed = resumable_run(tmp_path / "b")
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_wrong_arguments_are_errors():
    one, two = pair()
    with pytest.raises(ValueError, match="Expected 2 for CoTeaching"):
        kb.SelectionModel(one, COTEACHING)
    with pytest.raises(ValueError, match="share nothing"):
        kb.SelectionModel([one, one], COTEACHING)
    with pytest.raises(ValueError, match="`rule`. Expected a `Rule`"):
        kb.SelectionModel([one, two], "co_teaching")
    with pytest.raises(ValueError, match="`networks`. Expected a `Model`"):
        kb.SelectionModel([one, layers.Dense(3)], COTEACHING)
    with pytest.raises(ValueError, match="`schedule`. Expected a `Schedule`"):
        kb.SelectionModel([one, two], COTEACHING, schedule=0.2)
    with pytest.raises(ValueError, match="`predict_with`"):
        kb.SelectionModel([one, two], COTEACHING, predict_with="best")


def test_wrong_number_of_epochs_is_an_error_before_the_first_step():
    schedule = kb.schedules.S2ESchedule([1, 0, 0, 0], np.full((4, 4), 0.5), 7)
    model = compiled(pair(), schedule=schedule)
    x, y = batch_of(20)
    with pytest.raises(ValueError, match="epochs=3"):
        model.fit(x, y, batch_size=10, epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_loss_that_is_not_linear_is_an_error():
    model = compiled(
        pair(),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
    )
    with pytest.raises(ValueError, match="linear in the sample weights"):
        model.fit(*batch_of(20), batch_size=10, verbose=0)


def test_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match="`batch_size`"):
        compiled(pair()).fit(*batch_of(20), batch_size=32, verbose=0)


def test_history_that_is_too_short_is_an_error():
    history = kb.callbacks.SelectionHistory(10)
    with pytest.raises(ValueError, match="Expected at least the number"):
        compiled(pair()).fit(
            *batch_of(20), batch_size=10, verbose=0, callbacks=[history]
        )


def test_new_schedule_takes_effect_without_a_new_trace():
    x, y = batch_of(40)
    model = compiled(pair())
    model.fit(x, y, batch_size=20, epochs=1, verbose=0)
    traced = model.train_function
    model.epoch = 1
    model.schedule = kb.schedules.ConstantSchedule(0.5)
    model.reset_metrics()
    assert model.train_on_batch(x, y, return_dict=True)["kept"] == 0.5
    assert model.train_function is traced
