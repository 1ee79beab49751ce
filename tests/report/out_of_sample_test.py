"""Cross-validated probabilities, and what others do with them."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.model_selection import cross_val_predict

import keras_bilevel as kb


def blobs(n=300, classes=3, wrong_share=0.15):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    x = 5 * np.eye(classes)[y] + rng.normal(size=(n, classes))
    wrong = rng.random(n) < wrong_share
    given = np.where(wrong, (y + 1) % classes, y)
    return x.astype("float32"), given, wrong


def compiled(units=3, loss=None, wrap=False):
    net = keras.Sequential([keras.Input((3,)), layers.Dense(units)])
    if wrap:
        net = kb.BilevelModel(net, "deep_bilevel")
    net.compile(
        keras.optimizers.Adam(0.1),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return net


class Rows(keras.Model):
    """Predicts how often it has seen a row in training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def fit(self, x, y, sample_weight=None, **kwargs):
        self.seen = x[:, 0].tolist()
        if sample_weight is not None:
            assert self.seen == sample_weight.tolist()

    def predict(self, x, **kwargs):
        seen = np.isin(x[:, 0], self.seen).astype("float32")
        return np.stack([seen, 1 - seen], 1)


def test_no_network_has_seen_what_it_predicts():
    def make_model():
        model = Rows()
        model.compile(loss="sparse_categorical_crossentropy")
        return model

    x, y = np.arange(20.0)[:, None], np.arange(20) % 2
    for options in ({}, {"sample_weight": np.arange(20.0)}):
        found = kb.report.out_of_sample(
            make_model, x, y, folds=4, verbose=0, **options
        )
        np.testing.assert_array_equal(found, [[0, 1]] * 20)


@pytest.mark.parametrize("wrap", [False, True])
def test_it_agrees_with_scikit_learn(wrap):
    x, y, _ = blobs()
    found = kb.report.out_of_sample(
        lambda: compiled(wrap=wrap), x, y, verbose=0, epochs=40, batch_size=64
    )
    wanted = cross_val_predict(
        LogisticRegression(C=1e4),
        x,
        y,
        method="predict_proba",
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    )
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    if not wrap:  # Deep Bilevel Learning has another minimum.
        assert np.abs(found - wanted).mean() < 0.03
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95


def test_one_output_for_two_classes_has_two_columns():
    x, y, _ = blobs(classes=3)
    y = (y == 0).astype("int32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    found = kb.report.out_of_sample(
        lambda: compiled(1, loss), x, y, folds=3, epochs=20, verbose=0
    )
    assert found.shape == (len(y), 2)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert (found.argmax(1) == y).mean() > 0.75


def test_one_hot_labels_and_structures_of_inputs():
    x, y, _ = blobs(60)

    def make_model():
        inputs = {"a": keras.Input((3,), name="a")}
        outputs = layers.Dense(3, activation="softmax")(inputs["a"])
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "categorical_crossentropy")
        return model

    found = kb.report.out_of_sample(
        make_model, {"a": x}, np.eye(3)[y], folds=2, verbose=0
    )
    assert found.shape == (60, 3)


def test_wrong_labels_are_found_by_cleanlab():
    cleanlab = pytest.importorskip(
        "cleanlab.filter", reason="cleanlab is not installed"
    )
    x, y, wrong = blobs()
    pred_probs = kb.report.out_of_sample(
        compiled, x, y, verbose=0, epochs=40, batch_size=64
    )
    issues = cleanlab.find_label_issues(
        labels=y,
        pred_probs=pred_probs,
        return_indices_ranked_by="self_confidence",
    )
    assert len(issues) > 0.5 * wrong.sum()
    assert wrong[issues].mean() > 0.8
    given = pred_probs[np.arange(len(y)), y]
    ours = kb.report.suspects(given)["id"]
    first = min(20, len(issues))
    assert set(issues[:first]) <= set(ours[: 2 * first])


@pytest.mark.parametrize(
    ("units", "loss"), [(3, "mse"), (3, "binary_crossentropy")]
)
def test_predictions_that_are_no_classes_are_refused(units, loss):
    x, y, _ = blobs(30)
    y = np.eye(3)[y]
    with pytest.raises(ValueError, match="Expected a model with one output"):
        kb.report.out_of_sample(
            lambda: compiled(units, loss), x, y, folds=2, verbose=0
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": 1}, "folds=1"),
        ({"x": np.ones((3, 3))}, r"Received: x of shape \(3, 3\)"),
        (
            {"sample_weight": np.ones(3)},
            r"same length. Received: .*sample_weight of shape \(3,\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    x, y, _ = blobs(30)
    arguments = {"x": x, "y": y, **wrong}
    with pytest.raises(ValueError, match=message):
        kb.report.out_of_sample(compiled, **arguments)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("wrap", [False, True])
def test_networks_that_were_trained_before_are_refused(count, wrap):
    x, y, _ = blobs(30)
    networks = itertools.cycle([compiled() for _ in range(count)])

    def make_model():
        network = next(networks)
        if not wrap:
            return network
        model = kb.BilevelModel(network, kb.weighting.DeepBilevel(2))
        model.compile_from_config(network.get_compile_config())
        return model

    with pytest.raises(ValueError, match="a new model each time"):
        kb.report.out_of_sample(
            make_model, x, y, folds=3, batch_size=8, verbose=0
        )


def test_a_frozen_part_may_be_shared():
    x, y, _ = blobs(30)
    frozen = layers.Dense(4, trainable=False)

    def make_model():
        head = layers.Dense(3, activation="softmax")
        network = keras.Sequential([keras.Input((3,)), frozen, head])
        network.compile("sgd", "sparse_categorical_crossentropy")
        return network

    found = kb.report.out_of_sample(make_model, x, y, folds=2, verbose=0)
    assert found.shape == (30, 3)


def test_lists_are_arrays():
    x, y, _ = blobs(30)
    weights = np.linspace(0, 1, 30)

    def found(*data, sample_weight):
        keras.utils.set_random_seed(0)
        return kb.report.out_of_sample(
            compiled, *data, folds=2, verbose=0, sample_weight=sample_weight
        )

    np.testing.assert_array_equal(
        found(x.tolist(), y.tolist(), sample_weight=weights.tolist()),
        found(x, y, sample_weight=weights),
    )
