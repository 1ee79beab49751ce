"""What a history says of each label, beside its score."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import losses

import keras_bilevel as kb
from tests.callbacks.agreement_test import RANKED
from tests.callbacks.agreement_test import network
from tests.callbacks.agreement_test import observed
from tests.callbacks.agreement_test import ranked
from tests.callbacks.agreement_test import sigmoid
from tests.callbacks.agreement_test import softmax
from tests.callbacks.agreement_test import tokens
from tests.distribute import runs
from tests.models.tools import batch_of

N = 32
EPOCHS = 6


def margin_of(logits, y):
    """The logit of a class minus the largest other one, in float64."""
    others = np.array(logits, "float64")
    own = np.take_along_axis(others, y[..., None], -1)[..., 0]
    np.put_along_axis(others, y[..., None], -np.inf, -1)
    return own - others.max(-1)


def expected(logits, y):
    """The table, from the logits of shape `(visits, n, classes)`."""
    logits = np.array(logits, "float64")
    given = softmax(logits)[:, np.arange(len(y)), y]
    margin = np.array([margin_of(one, y) for one in logits])
    right = margin > 0
    return {
        "score": given.mean(0),
        "variability": given.std(0),
        "loss": -np.log(given).mean(0),
        "correctness": right.mean(0),
        "margin": margin.mean(0),
        "forgetting": (right[:-1] & ~right[1:]).sum(0),
        "visits": np.full(len(y), len(logits)),
    }


def check(table, wanted):
    assert list(table.columns) == list(wanted)
    for name, values in wanted.items():
        # The variance is a difference of squares, in float32.
        atol = 1e-3 if name == "variability" else 1e-4
        np.testing.assert_allclose(
            table[name], values, rtol=1e-4, atol=atol, err_msg=name
        )


class Logits(keras.callbacks.Callback):
    """Keeps predictions at the begin and the end of each epoch."""

    def __init__(self, x):
        super().__init__()
        self.x, self.begin, self.end = x, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin.append(self.model.predict(self.x, verbose=0))

    def on_epoch_end(self, epoch, logs=None):
        self.end.append(self.model.predict(self.x, verbose=0))


def trained(model, x, y, history, rate=3.0):
    """Trains with steps so large that predictions change for the worse."""
    model.compile(
        keras.optimizers.SGD(rate),
        losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    seen = Logits(x)
    model.fit(
        x,
        y,
        batch_size=len(x),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[history, seen],
    )
    return seen


def bilevel():
    weighting = kb.weighting.DeepBilevel(4)
    return kb.BilevelModel(network(3), weighting, stratify_by=None)


def test_curves_of_a_plain_model():
    x, y = batch_of(N)
    curves = kb.callbacks.LabelCurves(x, y)
    seen = trained(network(3), x, y, curves)
    wanted = expected(seen.end, y)
    assert wanted["forgetting"].sum() > 0
    check(curves.label_scores(), wanted)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_history_sees_the_predictions_of_the_steps(replicas):
    x, y = batch_of(N)
    history = kb.callbacks.ExampleHistory(N)
    with runs.mirrored(replicas).scope():
        model = bilevel()
        seen = trained(model, x, y, history)
    wanted = expected(seen.begin, y)
    assert wanted["forgetting"].sum() > 0
    check(history.label_scores(), wanted)


def test_curves_and_history_agree_where_nothing_is_learnt():
    x, y = batch_of(N)
    curves = kb.callbacks.LabelCurves(x, y)
    model = bilevel()
    trained(model, x, y, curves, rate=0.0)
    history = kb.callbacks.ExampleHistory(N)
    trained(model, x, y, history, rate=0.0)
    check(history.label_scores(), dict(curves.label_scores()))


def test_probabilities_have_the_margins_of_their_logits():
    x, y = batch_of(N)
    net = network(3)
    logits = net.predict(x, verbose=0)
    net.add(layers.Softmax())
    history = observed(net, x, y, "sparse_categorical_crossentropy")
    table = history.label_scores()
    np.testing.assert_allclose(table["margin"], margin_of(logits, y), rtol=1e-4)


@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_of_0_and_1_have_the_logit_of_the_given_value(from_logits):
    x, _ = batch_of(N)
    y = (x > 0).astype("int32")
    net = network(5)
    logits = net.predict(x, verbose=0)
    if not from_logits:
        net.add(layers.Activation("sigmoid"))
    loss = losses.BinaryCrossentropy(from_logits=from_logits)
    table = observed(net, x, y, loss).label_scores()
    signed = np.where(y, logits, -logits)
    np.testing.assert_allclose(table["margin"], signed.mean(1), rtol=1e-3)
    np.testing.assert_allclose(
        table["correctness"], (signed > 0).mean(1), rtol=1e-6
    )
    np.testing.assert_allclose(
        table["score"], sigmoid(signed).mean(1), rtol=1e-5
    )


def test_tokens_that_do_not_count_are_absent():
    x, y, there = tokens()
    net = network(3, shape=(8, 5))
    margin = margin_of(net.predict(x, verbose=0), y)
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    history = observed(net, x, np.where(there, y, -1), loss)
    table = history.label_scores()
    count = there.sum(1)
    for name, values in (("margin", margin), ("correctness", margin > 0)):
        np.testing.assert_allclose(
            table[name], (values * there).sum(1) / count, rtol=1e-4, atol=1e-6
        )


def test_other_losses_have_a_loss_and_ranks():
    make_y, make_network, loss, values = RANKED["regression"]
    x, _ = batch_of(N)
    y, net = make_y(x), make_network(1)
    table = observed(net, x, y, loss).label_scores()
    numbers = values(y, net.predict(x, verbose=0))
    wanted = {
        "score": ranked(numbers),
        "variability": np.zeros(N),
        "loss": numbers,
        "visits": np.full(N, 2),
    }
    check(table, wanted)


def test_what_was_never_visited_is_nan():
    x, y = batch_of(N)
    history = kb.callbacks.ExampleHistory(N + 1)
    trained(bilevel(), x, y, history)
    last = history.label_scores().iloc[-1]
    assert last.pop("visits") == 0 and np.isnan(last).all()


def test_copies_of_an_example_in_one_batch_do_not_depend_on_their_order():
    history = kb.callbacks.ExampleHistory(2)
    history.build()
    right, wrong = [0.9, 0.1, 1.0, 2.0], [0.2, 1.6, 0.0, -2.0]
    for rows in ((right, wrong), (wrong, right), (wrong, wrong)):
        history._add(np.array([1, 1]), keras.ops.convert_to_tensor(rows))
    table = history._kept()[0].numpy()[1]
    # A visit was right if one of its copies was; each wrong copy counts then.
    assert table[-1] == 3
    assert history._kept()[1].numpy().tolist() == [0, 6]


def test_wrong_labels_have_low_margins():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)).astype("float32")
    y = x[:, :3].argmax(1)
    wrong = rng.random(400) < 0.2
    y = np.where(wrong, (y + 1) % 3, y)
    model = bilevel()
    model.compile(
        keras.optimizers.SGD(0.1),
        losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = kb.callbacks.ExampleHistory(400)
    model.fit(x, y, batch_size=32, epochs=20, verbose=0, callbacks=[history])
    table = history.label_scores()
    for score in (table["margin"], table["correctness"], -table["loss"]):
        worst = kb.report.suspects(score)["id"][: wrong.sum()]
        assert wrong[worst].mean() > 0.7
