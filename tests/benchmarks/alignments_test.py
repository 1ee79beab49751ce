"""What is timed against one another computes the same."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import alignments
from benchmarks import costs
from benchmarks import networks


@pytest.mark.parametrize("way", alignments.WAYS)
def test_all_ways_agree(way):
    network = networks.build("cnn", (8, 8, 3), 10)
    x, y = map(tf.constant, costs.batch(6, (8, 8, 3)))
    judge = alignments.mean_gradient(network, x[4:], y[4:])
    gradient, products = alignments.WAYS[way](network, x[:4], y[:4], judge)
    each = [
        alignments.mean_gradient(network, x[j : j + 1], y[j : j + 1])
        for j in range(4)
    ]
    expected = [sum(np.sum(g * u) for g, u in zip(one, judge)) for one in each]
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-6)
    for g, *parts in zip(gradient, *each):
        np.testing.assert_allclose(g, np.mean(parts, 0), rtol=1e-4, atol=1e-6)
