"""The estimate of how often each class is labelled as each other one."""

import numpy as np
import pytest

import keras_bilevel as kb

TRUE = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])


def test_it_is_that_of_typical_examples():
    rng = np.random.default_rng(0)
    # Nobody is as sure as the typical examples of a class.
    blur = rng.uniform(0.0, 0.9, (3000, 1))
    probabilities = (1 - blur) * TRUE[np.arange(3000) % 3] + blur / 3
    found = kb.losses.estimate_transition(probabilities)
    np.testing.assert_allclose(found, TRUE, atol=0.03)
    kb.losses.ForwardCorrection(found)


def test_the_percentile_leaves_out_outliers():
    rows = np.array([[0.98, 0.02], *[[0.8, 0.2]] * 60, *[[0.4, 0.6]] * 60])
    argmax = kb.losses.estimate_transition(rows, percentile=100)
    np.testing.assert_allclose(argmax, [[0.98, 0.02], [0.4, 0.6]])
    found = kb.losses.estimate_transition(rows, percentile=97)
    np.testing.assert_allclose(found, [[0.8, 0.2], [0.4, 0.6]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.ones((4, 3)),), "softmax"),
        ((np.full(4, 0.25),), "softmax"),
        (([[-3.0, 4.0]],), "probabilities"),
        ((TRUE, 101), "percentile"),
        ((np.zeros((0, 3)),), "shape .0, 3."),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.losses.estimate_transition(*arguments)
