"""A share of every class, against NumPy; and rules that see the batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_bilevel as kb
from tests.distribute import runs
from tests.models.tools import batch_of
from tests.models.tools import tanh_network
from tests.models.tools import values

INF = float("inf")
RULE = kb.selection.ClassBalancedCoTeaching()
# All examples are kept in the first epoch.
SECOND = {"initial_epoch": 1, "epochs": 2, "verbose": 0}
SHARES = [0.0, 0.2, 0.3, 0.5, 0.55, 0.9, 1.0]


def sorted_within_classes(losses, share, classes):
    """The mask by a stable sort of the examples of each class."""
    mask = np.zeros(len(losses), bool)
    for c in np.unique(classes):
        there = np.flatnonzero((classes == c) & np.isfinite(losses))
        count = int(np.ceil(share * len(there) - 1e-6))
        order = there[np.argsort(losses[there], kind="stable")]
        mask[order[:count]] = True
    return mask


def picked(losses, share, classes):
    disagree = np.zeros(losses.shape[1], bool)
    return RULE.call(losses, share, disagree, epoch=0, classes=classes)


LOSSES = st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, INF])
EXAMPLES = st.lists(
    st.tuples(LOSSES, LOSSES, st.integers(-1, 2)), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(EXAMPLES, st.sampled_from(SHARES))
def test_equals_a_stable_sort_within_classes_with_ties(examples, share):
    one, two, classes = map(np.array, zip(*examples))
    losses = np.array([one, two], "float32")
    mask = picked(losses, share, classes)
    # Each network learns from the other's small losses.
    expected = [sorted_within_classes(x, share, classes) for x in losses[::-1]]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("share", [0.1, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("size", [10, 100, 1000])
def test_share_that_is_no_float32_keeps_no_example_more(share, size):
    losses = np.arange(2 * size, dtype="float32")
    share = keras.ops.cast(share, "float32")
    mask = picked(np.stack([losses] * 2), share, np.arange(2 * size) % 2)
    assert np.sum(mask) == 2 * 2 * round(float(share) * size)


def test_one_class_is_plain_co_teaching():
    losses = np.random.default_rng(0).random((2, 20)).astype("float32")
    plain = kb.selection.CoTeaching()
    np.testing.assert_array_equal(
        picked(losses, 0.33, np.zeros(20, int)),
        plain.call(losses, 0.33, np.zeros(20, bool), 0),
    )


def pair():
    keras.utils.set_random_seed(3)
    return [tanh_network(), tanh_network()]


def compiled(rule=RULE, share=0.5, loss=None, make=pair, **kwargs):
    schedule = kb.schedules.ConstantSchedule(1 - share)
    options = {"select_per_replica": kwargs.pop("select_per_replica", False)}
    model = kb.SelectionModel(make(), rule, schedule, **options)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **kwargs)
    return model


def cross_entropies(model, x, y):
    loss = keras.losses.sparse_categorical_crossentropy
    return np.array(
        [loss(y, network(x), from_logits=True) for network in model.models]
    )


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
@pytest.mark.parametrize("labels", ["integers", "column", "bytes", "one_hot"])
def test_step_keeps_a_share_of_each_class(labels, options):
    x, y = batch_of(30)
    weights = np.ones(30, "float32")
    weights[[2, 5, 11]] = 0
    given = {
        "integers": y,
        "column": y[:, None],
        "bytes": y.astype("uint8"),
        "one_hot": np.eye(3, dtype="float32")[y],
    }[labels]
    loss = None
    if labels == "one_hot":
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = compiled(loss=loss, **options)
    losses = np.where(weights > 0, cross_entropies(model, x, y), INF)
    history = kb.callbacks.SelectionHistory(30)
    batch = tf.data.Dataset.from_tensors((x, given, weights, np.arange(30)))
    model.fit(batch, **SECOND, callbacks=[history])
    expected = [sorted_within_classes(row, 0.5, y) for row in losses]
    counts = np.where(weights > 0, np.sum(expected, axis=0), -1)  # Not there.
    np.testing.assert_array_equal(history.kept[0], counts)
    assert 0 < np.sum(expected) < 60


def test_arrays_of_labels_are_read():
    x, y = batch_of(40)
    for labels in (y, y[:, None]):
        model = compiled()
        kept = model.fit(x, labels, batch_size=20, **SECOND).history["kept"]
        assert 0.5 <= kept[0] < 0.6


def test_batches_of_different_sizes_are_fine():
    batches = tf.data.Dataset.from_tensor_slices(batch_of(40)).batch(16)
    kept = compiled().fit(batches, **SECOND).history["kept"]
    assert 0.5 <= kept[0] < 0.65


@pytest.mark.parametrize(
    "labels",
    [
        np.linspace(0, 1, 12, dtype="float32"),
        np.zeros((12, 1), "float32"),
        np.zeros((12, 3), "float32"),
        np.tile([0, 1, 1], (12, 1)),
        np.zeros((12, 3, 1), "int32"),
    ],
)
def test_arrays_that_are_no_classes_are_an_error_before_the_step(labels):
    model = compiled(loss="mse")
    with pytest.raises(ValueError, match="classes.*one-hot.*Received: y of"):
        model.fit(batch_of(12)[0], labels, batch_size=6, **SECOND)
    assert not model.optimizer.built


@pytest.mark.parametrize("shape", [(1,), (3, 1)])
def test_datasets_that_are_no_classes_are_an_error_before_the_step(shape):
    x = batch_of(12)[0]
    model = compiled(loss="mse")
    before = values(model.trainable_variables)
    batches = tf.data.Dataset.from_tensors((x, np.zeros((12, *shape))))
    with pytest.raises(ValueError, match="classes.*one-hot.*Received: y of"):
        model.fit(batches, **SECOND)
    for a, b in zip(before, values(model.trainable_variables)):
        np.testing.assert_array_equal(a, b)


def test_labels_of_several_outputs_are_an_error():
    def make():
        networks = []
        for network in pair():
            inputs = keras.Input((5,))
            y = network(inputs)
            networks.append(keras.Model(inputs, {"a": y, "b": y}))
        return networks

    x, y = batch_of(12)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(loss={"a": loss, "b": loss}, make=make)
    with pytest.raises(ValueError, match="classes.*Received: y of type dict"):
        model.fit(x, {"a": y, "b": y}, batch_size=6, **SECOND)


@keras.saving.register_keras_serializable("tests")
class Agreed(kb.selection.Rule):
    """Keeps what both networks predict to be of the label's class."""

    needs = ("labels", "predictions")

    def call(self, losses, share, disagree, epoch, labels, predictions):
        self.seen = labels, predictions
        right = [
            keras.ops.argmax(y_pred, axis=-1) == keras.ops.cast(labels, "int32")
            for y_pred in predictions
        ]
        kept = right[0] & right[1] & keras.ops.isfinite(losses[0])
        return keras.ops.stack([kept, kept])


def test_rule_sees_labels_and_predictions():
    x, y = batch_of(30)
    model = compiled(Agreed(), run_eagerly=True)
    predicted = [network(x).numpy() for network in model.models]
    right = [p.argmax(1) == y for p in predicted]
    batch = tf.data.Dataset.from_tensors((x, y))
    kept = model.fit(batch, **SECOND).history["kept"][0]
    np.testing.assert_allclose(kept, np.mean(right[0] & right[1]), rtol=1e-6)
    labels, predictions = model.rule.seen
    np.testing.assert_array_equal(labels, y)
    for seen, expected in zip(predictions, predicted, strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


def test_rule_that_needs_what_there_is_not_is_an_error():
    class Curious(kb.selection.CoTeaching):
        needs = ("truth",)

    with pytest.raises(ValueError, match="`needs`.*'labels'.*'truth'"):
        compiled(Curious())


@pytest.mark.parametrize("rule", [RULE, Agreed()])
@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_two_replicas_pick_what_one_device_picks(rule, kind):
    x, y = runs.examples(24)
    y = (y % 2).astype(kind)

    def networks():
        keras.utils.set_random_seed(7)
        return [tanh_network(runs.INPUTS, 7, 2) for _ in range(2)]

    results = []
    for strategy in (runs.mirrored(2), tf.distribute.get_strategy()):
        history = kb.callbacks.SelectionHistory(24)
        with strategy.scope():
            model = compiled(rule, make=networks)
        batch = (x, y, np.ones(24, "float32"), np.arange(24))
        fitted = model.fit(
            tf.data.Dataset.from_tensors(batch).repeat(3),
            **SECOND,
            callbacks=[history],
        )
        results.append(runs.outcome(model, fitted.history, kept=history.kept))
    different = runs.differences(*results)
    assert max(different.values()) < 1e-4, different
    assert 0 < np.sum(results[0]["kept"] > 0) < 24


def test_each_replica_may_keep_its_own_share():
    x, y = runs.examples(24)
    with runs.mirrored(2).scope():
        model = compiled(select_per_replica=True)
    history = kb.callbacks.SelectionHistory(24)
    batch = (x, y, np.ones(24, "float32"), np.arange(24))
    model.fit(
        tf.data.Dataset.from_tensors(batch), **SECOND, callbacks=[history]
    )
    for half in (slice(12), slice(12, 24)):
        counts = np.bincount(y[half], minlength=3)
        kept = history.kept[0][half].sum()
        assert kept == 2 * np.ceil(counts / 2).sum()


def test_rule_survives_serialization():
    config = keras.saving.serialize_keras_object(RULE)
    found = keras.saving.deserialize_keras_object(config)
    assert isinstance(found, kb.selection.ClassBalancedCoTeaching)
