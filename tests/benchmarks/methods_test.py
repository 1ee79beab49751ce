"""What the methods compute beside training."""

import numpy as np

from benchmarks import methods


def test_anchored_confusion_is_that_of_typical_examples():
    true = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    rng = np.random.default_rng(0)
    # Nobody is as sure as the typical examples of a class.
    blur = rng.uniform(0.0, 0.9, (3000, 1))
    probabilities = (1 - blur) * true[np.arange(3000) % 3] + blur / 3
    found = methods.anchored_confusion(probabilities)
    np.testing.assert_allclose(found, true, atol=0.03)
