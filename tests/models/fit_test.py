"""`fit` on arrays and datasets keeps Keras' meaning of its arguments."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import values


class Ids(kb.callbacks.Observer):
    """Keeps the ids of all batches, per epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[epoch] = []
        self._epoch = epoch

    def observe(self, step):
        tf.py_function(
            lambda ids: self.epochs[self._epoch].append(ids.numpy()),
            [step.batch.ids],
            [],
        )


def fit_ids(model=None, n=96, **kwargs):
    x, y = batch_of(n)
    ids = Ids()
    model = model or compiled(tanh_network())
    model.fit(x, y, callbacks=[ids], verbose=0, **kwargs)
    return ids.epochs


def test_batch_size_counts_all_shards_of_a_step():
    epochs = fit_ids(batch_size=16)
    assert {len(ids) for ids in epochs[0]} == {16}
    assert len(epochs[0]) >= 4


def test_default_batch_size_is_keras_32():
    assert {len(ids) for ids in fit_ids()[0]} == {32}


def test_validation_split_takes_the_tail_before_shuffling():
    x, y = batch_of(100)
    model = compiled(tanh_network())
    log = model.fit(
        x, y, batch_size=16, validation_split=0.3, epochs=2, verbose=0
    )
    epochs = fit_ids(n=100, batch_size=16, validation_split=0.3, epochs=4)
    assert max(np.max(ids) for ids in epochs.values()) < 70
    expected = model.evaluate(x[70:], y[70:], verbose=0)
    np.testing.assert_allclose(log.history["val_loss"][-1], expected, rtol=1e-5)


def test_shuffle_false_repeats_the_same_epoch():
    epochs = fit_ids(batch_size=16, epochs=2, shuffle=False)
    np.testing.assert_array_equal(epochs[0], epochs[1])


def test_shuffle_changes_the_epoch():
    epochs = fit_ids(batch_size=16, epochs=2)
    assert not np.array_equal(epochs[0], epochs[1])


def test_initial_epoch_sees_what_the_uninterrupted_run_saw():
    keras.utils.set_random_seed(5)
    whole = fit_ids(batch_size=16, epochs=4)
    keras.utils.set_random_seed(5)
    tail = fit_ids(batch_size=16, epochs=4, initial_epoch=2)
    assert set(tail) == {2, 3}
    for epoch in tail:
        np.testing.assert_array_equal(tail[epoch], whole[epoch])


def test_steps_per_epoch_goes_on_through_the_data():
    epochs = fit_ids(batch_size=16, epochs=4, steps_per_epoch=2)
    assert [len(e) for e in epochs.values()] == [2] * 4
    # 96 examples are at least 4 super-batches: no id twice in 2 epochs.
    ids = np.concatenate(epochs[0] + epochs[1])
    assert len(set(ids)) == len(ids) == 64
    long = fit_ids(batch_size=16, epochs=1, steps_per_epoch=11)
    assert len(long[0]) == 11


def with_options(**options):
    model = kb.BilevelModel(
        tanh_network(), kb.weighting.DeepBilevel(4), **options
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def by_role(epochs):
    """Returns the ids that were in the first shard, and in another one."""
    steps = [ids.reshape(4, -1) for epoch in epochs.values() for ids in epoch]
    validate = {i for step in steps for i in step[0].tolist()}
    return validate, {i for step in steps for i in step[1:].ravel().tolist()}


def test_validation_ratio_keeps_examples_for_validation():
    model = with_options(validation_ratio=0.25)
    epochs = fit_ids(model, n=192, batch_size=16, epochs=3)
    validate, train = by_role(epochs)
    assert not validate & train
    # A quarter of each class, and all others.
    assert 40 <= len(validate) <= 50 and len(train) > 130
    epochs = fit_ids(with_options(), n=192, batch_size=16, epochs=3)
    validate, train = by_role(epochs)
    assert validate & train


def with_rare_class():
    x, y = batch_of(98, classes=2)
    y[[5, 50]] = 2
    return x, y


def test_rare_says_what_becomes_of_rare_classes():
    x, y = with_rare_class()
    with pytest.raises(ValueError, match=r"2 \(2\).*Received: rare='error'"):
        with_options(rare="error").fit(x, y, batch_size=16, verbose=0)
    with pytest.warns(UserWarning, match=r"2 \(2\).*rare='drop'"):
        with_options().fit(x, y, batch_size=16, verbose=0)
    ids = Ids()
    with_options(rare="drop").fit(
        x, y, batch_size=16, epochs=4, verbose=0, callbacks=[ids]
    )
    seen = np.concatenate([i for e in ids.epochs.values() for i in e])
    assert not {5, 50} & set(seen)


@pytest.mark.parametrize(
    "options", [{"rare": "keep"}, {"validation_ratio": 1.0}]
)
def test_wrong_options_are_errors_before_the_first_step(options):
    (name,) = options
    model = with_options(**options)
    with pytest.raises(ValueError, match=f"`{name}`. Expected.*Received"):
        model.fit(*batch_of(64), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_options_are_saved(tmp_path):
    model = with_options(rare="drop", validation_ratio=0.25)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert (loaded.rare, loaded.validation_ratio) == ("drop", 0.25)


def test_epochs_of_a_dataset_follow_fit_too():
    x, y = batch_of(96)

    def run(initial_epoch):
        dataset = kb.data.stratified_batches(
            (x, y), num_shards=4, shard_size=4, ids=True, seed=3
        ).prefetch(2)
        ids = Ids()
        model = compiled(tanh_network())
        model.fit(
            dataset,
            epochs=4,
            initial_epoch=initial_epoch,
            callbacks=[ids],
            verbose=0,
        )
        return ids.epochs

    whole, tail = run(0), run(2)
    for epoch in tail:
        np.testing.assert_array_equal(tail[epoch], whole[epoch])


def test_arrays_and_their_dataset_give_the_same_training():
    x, y = batch_of(96)
    results = []
    for data in ("arrays", "dataset"):
        keras.utils.set_random_seed(2)
        model = compiled(tanh_network())
        if data == "arrays":
            model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        else:
            batches = kb.data.stratified_batches(
                (x, y), num_shards=4, shard_size=4
            )
            model.fit(batches, epochs=2, verbose=0)
        results.append(values(model.weights))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_callback_list_of_the_user_is_kept():
    x, y = batch_of(32)
    model = compiled(tanh_network())
    mine = keras.callbacks.CallbackList(
        [kb.callbacks.WeightHistory()], add_history=True, model=model
    )
    model.fit(x, y, batch_size=16, callbacks=mine, verbose=0)
    assert mine.callbacks[0].num_steps == 1


def test_generators_of_super_batches_work():
    def generator():
        for seed in range(3):
            yield batch_of(16, seed=seed)

    model = compiled(tanh_network())
    model.fit(generator(), steps_per_epoch=3, verbose=0)
    assert int(model.optimizer.iterations) == 3


class Stop(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self.at:
            raise Stop


def noisy_network():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=4),
            keras.layers.Dense(3),
        ]
    )


def resumable_run(folder, *callbacks):
    keras.utils.set_random_seed(7)
    x, y = batch_of(96)
    model = compiled(noisy_network(), optimizer=keras.optimizers.Adam(0.01))
    history = kb.callbacks.ExampleHistory(96)
    weights = kb.callbacks.WeightHistory()
    backup = keras.callbacks.BackupAndRestore(folder)
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=5,
        verbose=0,
        callbacks=[backup, history, weights, *callbacks],
    )
    return [
        *values(model.weights),
        *values(model.optimizer.variables),
        history.given_probability,
        weights.weights,
    ]


def test_interrupted_run_resumes_to_the_same_result(tmp_path):
    whole = resumable_run(tmp_path / "a")
    with pytest.raises(Stop):
        resumable_run(tmp_path / "b", StopAt(3, 1))
    resumed = resumable_run(tmp_path / "b")
    assert len(whole) == len(resumed)
    for a, b in zip(whole, resumed):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_checkpoint_early_stopping_and_plateau_callbacks(tmp_path):
    x, y = batch_of(96)
    model = compiled(tanh_network(), metrics=["accuracy"])
    path = tmp_path / "best.keras"
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        validation_data=(x, y),
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(path, save_best_only=True),
            keras.callbacks.EarlyStopping(patience=1),
            keras.callbacks.ReduceLROnPlateau(patience=1),
            keras.callbacks.TensorBoard(str(tmp_path / "logs")),
            kb.callbacks.WeightHistory(log_dir=str(tmp_path / "logs")),
        ],
    )
    best = keras.models.load_model(path)
    assert best.predict(x, verbose=0).shape == (96, 3)
    assert list((tmp_path / "logs").rglob("events*"))


def test_gradients_that_are_no_gradients_are_an_error():
    network = tanh_network()
    network.layers[0].quantize("float8")
    model = compiled(network)
    with pytest.raises(ValueError, match="amax_history.*float8"):
        model.fit(*batch_of(64), verbose=0)


class Rows(kb.callbacks.Observer):
    """The ids of each step; for eager steps."""

    def __init__(self):
        super().__init__()
        self.ids = []

    def observe(self, step):
        self.ids.append(step.batch.ids.numpy().tolist())


@pytest.mark.parametrize("steps", [2, 3])
def test_a_repeated_dataset_goes_on_from_pass_to_pass(steps):
    """It reads ahead, so that nobody may tell it where to begin an epoch."""

    def dataset():
        x, y = batch_of(48)
        return kb.data.stratified_batches((x, y), 4, 4, ids=True, seed=1)

    passes = dataset()
    expected = [batch[3].numpy().tolist() for _ in range(8) for batch in passes]
    model = compiled(tanh_network(), run_eagerly=True)
    rows = Rows()
    model.fit(
        dataset().repeat(),
        epochs=4,
        steps_per_epoch=steps,
        callbacks=[rows],
        verbose=0,
    )
    assert rows.ids == expected[: 4 * steps]


def test_loss_without_a_reduction_is_an_error():
    loss = keras.losses.MeanSquaredError(reduction=None)
    for model in (
        kb.BilevelModel(tanh_network(), kb.weighting.DeepBilevel(4)),
        kb.SelectionModel(tanh_network(), kb.selection.SelfPaced()),
    ):
        model.compile("sgd", [loss])
        with pytest.raises(ValueError, match="MeanSquaredError with reduction"):
            model.fit(*batch_of(64), verbose=0)


@pytest.mark.parametrize("size", [0, 32.0])
def test_batch_size_is_a_positive_integer(size):
    model = compiled(tanh_network())
    with pytest.raises(ValueError, match="`batch_size`. Expected an integer"):
        model.fit(*batch_of(64), batch_size=size, verbose=0)


def test_compile_takes_what_keras_takes_by_position():
    model = kb.BilevelModel(tanh_network(), kb.weighting.DeepBilevel(4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, None, ["accuracy"])
    assert "accuracy" in model.fit(*batch_of(64), verbose=0).history


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(
    "name",
    ["deep_bilevel", "soseleto", "learning_to_reweight", "meta_weight_net"],
)
def test_float64_throughout(name, has_norm):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        x, y = batch_of(64)
        network = tanh_network()
        if has_norm:
            norm = keras.layers.BatchNormalization()
            network = keras.Sequential([keras.Input((5,)), norm, network])
        weighting = kb.weighting.Soseleto(64) if name == "soseleto" else name
        model = compiled(network, weighting)
        data = kb.data.source_target_batches((x, y), (x, y), 32, 8)
        if name == "deep_bilevel":
            data = kb.data.stratified_batches((x, y), 8, 2)
        history = model.fit(data, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert network.dtype == "float64"
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("is_pass", [True, False])
def test_steps_that_are_no_pass_are_told_where_a_later_epoch_begins(is_pass):
    x, y = batch_of(96)
    dataset = kb.data.stratified_batches(
        (x, y), num_shards=4, shard_size=4, seed=1
    )
    steps = len(dataset) if is_pass else len(dataset) - 1
    model = compiled(tanh_network())
    arguments = {"steps_per_epoch": steps, "verbose": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(dataset.repeat(), epochs=1, **arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(dataset.repeat(), initial_epoch=1, epochs=2, **arguments)
    told = [w for w in caught if "is a pass over" in str(w.message)]
    assert len(told) == (not is_pass)
