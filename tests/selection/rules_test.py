"""Rules against a NumPy sort."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_bilevel as kb
from keras_bilevel.selection.disagreement import disagreement

INF = float("inf")


def sorted_mask(losses, share):
    """The mask by a stable sort of the examples that are there."""
    there = np.flatnonzero(np.isfinite(losses))
    count = int(np.ceil(share * len(there) - 1e-6))
    order = there[np.argsort(losses[there], kind="stable")]
    mask = np.zeros(len(losses), bool)
    mask[order[:count]] = True
    return mask


LOSSES = st.lists(
    st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, INF]), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(LOSSES, st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.55, 0.9, 1.0]))
def test_smallest_equals_a_stable_sort_with_ties(losses, share):
    losses = np.array(losses, "float32")
    np.testing.assert_array_equal(
        kb.selection.smallest(losses, share), sorted_mask(losses, share)
    )


@pytest.mark.parametrize("share", [0.1, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("size", [10, 100, 1000, 20_000])
def test_share_that_is_no_float32_keeps_no_example_more(share, size):
    losses = np.arange(size, dtype="float32")
    kept = kb.selection.smallest(losses, keras.ops.cast(share, "float32"))
    assert np.sum(kept) == round(share * size)


def test_compiled_ranks_break_ties_alike():
    losses = np.array([[1, 0, 1, 0, 1, INF, 0, 1]], "float32")
    compiled = tf.function(kb.selection.smallest, jit_compile=True)
    for share in (0.3, 0.6, 1.0):
        np.testing.assert_array_equal(
            compiled(tf.constant(losses), tf.constant(share)),
            [sorted_mask(losses[0], share)],
        )


LOSS_PAIR = np.array([[3, 1, 2, 4], [1, 2, INF, 3]], "float32")
DISAGREE = np.array([True, False, True, True])


@pytest.mark.parametrize(
    "rule, expected",
    [
        (kb.selection.SelfPaced(), [[0, 1, 1, 0], [1, 1, 0, 0]]),
        (kb.selection.CoTeaching(), [[1, 1, 0, 0], [0, 1, 1, 0]]),
        # Among 0, 2, 3; in the second row only 0 and 3 are there.
        (kb.selection.CoTeachingPlus(), [[1, 0, 0, 0], [1, 0, 1, 0]]),
        (kb.selection.Decoupling(), [[1, 0, 1, 1], [1, 0, 0, 1]]),
    ],
)
def test_rules_pick_what_they_say(rule, expected):
    mask = rule.call(LOSS_PAIR, 0.5, DISAGREE, epoch=0)
    np.testing.assert_array_equal(np.array(mask, int), expected)


@pytest.mark.parametrize(
    "rule", [kb.selection.CoTeachingPlus(), kb.selection.Decoupling()]
)
def test_without_disagreement_nothing_is_picked(rule):
    mask = rule.call(LOSS_PAIR, 1.0, np.zeros(4, bool), epoch=0)
    assert not np.any(mask)


def test_co_teaching_plus_warms_up_as_co_teaching():
    plus = kb.selection.CoTeachingPlus(warm_up=2)
    plain = kb.selection.CoTeaching()
    for epoch, like in [(0, plain), (1, plain), (2, type(plus)())]:
        np.testing.assert_array_equal(
            plus.call(LOSS_PAIR, 0.5, DISAGREE, epoch),
            like.call(LOSS_PAIR, 0.5, DISAGREE, epoch),
        )
    with pytest.raises(ValueError, match="`warm_up`. Expected an integer"):
        kb.selection.CoTeachingPlus(warm_up=-1)


def test_disagreement_looks_at_every_output():
    a = {"kind": np.eye(3)[[0, 1, 2]], "sign": np.array([[0.2], [0.7], [0.7]])}
    b = {"kind": np.eye(3)[[0, 2, 2]], "sign": np.array([[0.4], [0.7], [0.3]])}
    differ = disagreement([a, b], [None, 0.5])
    np.testing.assert_array_equal(differ, [False, True, True])
    logits = disagreement([{"s": -a["sign"]}, {"s": b["sign"]}], [0.0])
    np.testing.assert_array_equal(logits, [True] * 3)


def test_one_network_never_disagrees():
    assert not np.any(disagreement([np.eye(3)], [None]))


@pytest.mark.parametrize(
    "name", ["SelfPaced", "CoTeaching", "CoTeachingPlus", "Decoupling"]
)
def test_rules_survive_serialization(name):
    rule = getattr(kb.selection, name)()
    config = keras.saving.serialize_keras_object(rule)
    assert isinstance(keras.saving.deserialize_keras_object(config), type(rule))


def test_warm_up_survives_serialization():
    config = keras.saving.serialize_keras_object(
        kb.selection.CoTeachingPlus(warm_up=3)
    )
    assert keras.saving.deserialize_keras_object(config).warm_up == 3


def test_rule_without_call_is_an_error():
    with pytest.raises(NotImplementedError, match="must implement `call"):
        kb.selection.Rule().call(LOSS_PAIR, 0.5, DISAGREE, epoch=0)


def _constant(values, activation=None):
    layer = keras.layers.Dense(
        len(values), activation, kernel_initializer="zeros"
    )
    network = keras.Sequential([keras.Input((2,)), layer])
    layer.bias.assign(values)
    return network


@pytest.mark.parametrize(
    "a, b, activation, loss",
    [
        ([2.0, 2.0, -2.0], [2.0, -2.0, -2.0], "sigmoid", "binary_crossentropy"),
        ([0.3], [-0.3], "tanh", "hinge"),
        ([0.3], [-0.3], None, keras.losses.BinaryCrossentropy(True)),
        ([0.3], [-0.3], "sigmoid", "binary_crossentropy"),
        ([0.3, 0.1], [0.1, 0.3], None, "categorical_hinge"),
    ],
)
def test_networks_differ_where_their_loss_says_so(a, b, activation, loss):
    kept = []
    for other in (a, b):
        networks = [_constant(a, activation), _constant(other, activation)]
        model = kb.SelectionModel(networks, kb.selection.Decoupling())
        model.compile("sgd", loss)
        data = np.ones((8, 2)), np.ones((8, len(a)))
        kept += model.fit(*data, batch_size=8, verbose=0).history["kept"]
    assert kept == [0.0, 1.0]


def test_each_output_has_a_threshold_of_its_own():
    def network(probability):
        x = keras.Input((2,))
        layers = {
            "a": keras.layers.Dense(1, kernel_initializer="zeros"),
            "b": keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros"),
        }
        model = keras.Model(x, {name: f(x) for name, f in layers.items()})
        layers["a"].bias.assign([1.0])
        layers["b"].bias.assign([probability])
        return model

    networks = [network(2.0), network(-2.0)]
    model = kb.SelectionModel(networks, kb.selection.Decoupling())
    model.compile(
        "sgd",
        {
            "a": keras.losses.BinaryCrossentropy(from_logits=True),
            "b": "binary_crossentropy",
        },
    )
    y = np.ones((8, 1))
    data = np.ones((8, 2)), {"a": y, "b": y}
    history = model.fit(*data, batch_size=8, verbose=0)
    assert history.history["kept"] == [1.0]
