"""The tool that chooses shards and averaging by held-out noisy labels."""

import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

import keras_bilevel as kb
from keras_bilevel.tuners import settings as tool

X = np.random.default_rng(0).normal(size=(240, 20)).astype("float32")
TRUE = X[:, :3].argmax(1)
FLIPPED = np.random.default_rng(1).random(240) < 0.4
Y = np.where(FLIPPED, (TRUE + 1) % 3, TRUE)


def make_model(optimizer=None, metrics=("accuracy",)):
    net = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=list(metrics),
    )
    return net


def suggest(make=make_model, y=Y, **options):
    defaults = {"batch_size": 64, "epochs": 3, "repeats": 2, "verbose": 0}
    return kb.tuners.suggest_settings(make, X, y, **{**defaults, **options})


def trials_of(values, repeats=2):
    """Trials of KerasTuner with these accuracies: `(setting, repeats)`."""
    settings = tool.all_settings(64, [4])
    trials = tool._Trials(
        make_model,
        X,
        Y,
        settings=settings,
        held_out=0.2,
        max_examples=100,
        repeats=repeats,
        seed=0,
    )
    ended = []
    for setting, row in zip(settings, values, strict=True):
        for repeat, value in enumerate(row):
            hp = keras_tuner.HyperParameters()
            hp.Fixed("setting", setting.name)
            hp.Fixed("repeat", repeat)
            trial = keras_tuner.engine.trial.Trial(hp)
            trial.metrics.register("held_out", "max")
            trial.metrics.update("held_out", value)
            trial.metrics.register("seconds", "min")
            trial.metrics.update("seconds", 1.0)
            ended.append(trial)
    return trials.suggestion(ended)


@pytest.mark.parametrize(
    "batch_size, shards",
    [(128, [8, 32]), (100, [5, 25]), (16, [4]), (8, [2])],
)
def test_default_shards_divide_the_batch(batch_size, shards):
    found = [s.num_shards for s in tool.all_settings(batch_size)]
    assert list(dict.fromkeys(found)) == [0, *shards]


@pytest.mark.parametrize("batch_size", [1, 7, 9])
def test_batch_without_shards_is_an_error(batch_size):
    with pytest.raises(ValueError, match="`batch_size`. .*shards of 4"):
        tool.all_settings(batch_size)


def test_it_tries_all_settings_and_says_what_it_saw():
    found = suggest()
    assert set(found.table["setting"]) == {
        "plain",
        "plain, averaged",
        "4 shards",
        "4 shards, averaged",
        "16 shards",
        "16 shards, averaged",
    }
    assert np.all(np.diff(found.table["held_out"]) <= 0)
    assert found.table["behind"][0] == 0
    assert np.all(found.table["seconds"] > 0)
    text = str(found)
    assert "Trained 2 times each on 192 examples" in text
    assert f"Suggested: {found.name}." in text and found.lines in text
    axes = found.plot()
    assert len(axes.patches) == 6


def test_the_simplest_within_a_standard_error_is_suggested():
    values = [[0.60, 0.62], [0.60, 0.60], [0.70, 0.72], [0.70, 0.74]]
    found = trials_of(values)
    assert found.name == "4 shards"
    table = found.table.set_index("setting")
    np.testing.assert_allclose(
        table.loc["4 shards", ["behind", "error"]].astype(float), [0.01, 0.01]
    )
    np.testing.assert_allclose(table.loc["plain", "behind"], 0.11)
    assert "num_shards=4" in found.lines and "use_ema" not in found.lines
    assert "0.010 ± 0.010 behind '4 shards, averaged'" in str(found)


def test_plain_training_is_suggested_where_nothing_is_ahead():
    found = trials_of([[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.8, 0.8]])
    assert found.name == "plain" and found.lines.startswith("# Nothing")


def test_the_lines_are_what_was_trained():
    setting = tool._Setting(16, averaged=True)
    model = setting.apply(make_model(keras.optimizers.Adam(0.01)))
    assert isinstance(model, kb.BilevelModel)
    assert model.weighting.num_shards == 16
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert model.optimizer.use_ema and model.optimizer.ema_momentum == 0.995
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 0.01)
    plain = tool._Setting(0, averaged=False).apply(make_model())
    assert not plain.optimizer.use_ema
    assert not isinstance(plain, kb.BilevelModel)


def test_the_averages_are_what_is_judged():
    averaged, plain = (
        tool._Setting(0, averaged).apply(make_model())
        for averaged in (True, False)
    )
    plain.set_weights(averaged.get_weights())
    for model in (averaged, plain):
        model.fit(X, Y, batch_size=240, epochs=5, shuffle=False, verbose=0)
    kernel = averaged.get_weights()[0], plain.get_weights()[0]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-4


def test_an_interrupted_search_goes_on(tmp_path):
    count = []

    def counting():
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        return make_model()

    options = {"shards": [4], "directory": str(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        suggest(counting, **options)
    again = suggest(counting, **options)
    whole = suggest(make_model, shards=[4])
    # Of 8 trainings those that had ended are not made again.
    assert len(count) < 8 + 8
    for name in ("setting", "held_out"):
        assert list(again.table[name]) == list(whole.table[name])


@pytest.mark.parametrize("x", [X, X.tolist()], ids=["array", "lists"])
def test_one_hot_labels_and_structures(x):
    def make():
        inputs = {"a": keras.Input((20,), name="a")}
        outputs = layers.Dense(3, activation="softmax")(inputs["a"])
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
        return model

    found = kb.tuners.suggest_settings(
        make,
        {"a": x},
        np.eye(3)[Y],
        batch_size=32,
        epochs=1,
        shards=[4],
        repeats=2,
        verbose=0,
    )
    assert len(found.table) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"make": lambda: make_model(metrics=[])}, 'metrics=."accuracy".'),
        ({"shards": [5]}, "divide `batch_size`, 64. Received: 5"),
        ({"batch_size": 64, "shards": [1]}, "at least 2"),
        ({"repeats": 1}, "repeats=1"),
        ({"held_out": 1.0}, "held_out=1.0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        suggest(**options)


@pytest.mark.filterwarnings("ignore:Some groups have fewer")
def test_a_class_of_one_example_is_no_obstacle():
    y = Y.copy()
    y[7] = 3

    def make():
        model = keras.Sequential([keras.Input((20,)), layers.Dense(4)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        return model

    assert len(suggest(make, y, epochs=1, shards=[4]).table) == 4


def test_an_error_of_a_trial_ends_the_search():
    """KerasTuner went on, and failed in the end on a result that it missed."""

    made = []

    def make():
        made.append(1)
        if len(made) == 3:
            raise ValueError("no more")
        return make_model()

    with pytest.raises(ValueError, match="no more"):
        suggest(make, shards=[4])
    assert len(made) == 3
    with pytest.raises(ValueError, match="Expected enough examples"):
        suggest(batch_size=256, shards=[8], max_examples=200)


def test_scaled_losses_are_averaged_too():
    adam = keras.optimizers.Adam(0.01)
    setting = tool._Setting(4, averaged=True)
    model = setting.apply(make_model(keras.optimizers.LossScaleOptimizer(adam)))
    assert model.optimizer.inner_optimizer.use_ema
    model.fit(X, Y, batch_size=64, epochs=1, verbose=0)


def test_optimizers_that_average_are_refused():
    with pytest.raises(ValueError, match="without `use_ema`"):
        suggest(lambda: make_model(keras.optimizers.SGD(0.1, use_ema=True)))


def test_losses_of_ones_own_say_how_to_be_compiled_again():
    def own(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    def make():
        model = make_model()
        model.compile("sgd", own, metrics=["accuracy"])
        return model

    model = make()
    assert tool._Setting(0, averaged=False).apply(model) is model
    with pytest.raises(ValueError, match="register_keras_serializable"):
        suggest(make, shards=[4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": [8]}, "settings="),
        ({"epochs": 2}, "epochs=1. Received: epochs=2. Pass another"),
        ({"y": Y[::-1]}, "labels="),
    ],
)
def test_another_search_in_its_directory_is_refused(options, message, tmp_path):
    first = {"shards": [4], "epochs": 1, "directory": str(tmp_path)}
    suggest(**first)
    with pytest.raises(ValueError, match=message):
        suggest(**{**first, **options})


@pytest.mark.parametrize("is_model_new", [False, True])
def test_one_network_for_all_trials_is_refused(is_model_new):
    model = make_model()

    def make_again():
        if not is_model_new:
            return model
        again = keras.Sequential(model.layers)
        again.compile_from_config(model.get_compile_config())
        return again

    with pytest.raises(ValueError, match="a new model each time"):
        suggest(make_again, shards=[4])


def test_shards_have_to_be_integers():
    with pytest.raises(ValueError, match="shards='4'"):
        suggest(shards=["4"])


def test_more_classes_than_held_out_examples_are_not_stratified():
    found = suggest(held_out=0.01, epochs=1, shards=[4], repeats=2)
    assert len(found.table) == 4
