"""The pattern of wrong labels, as a trained network shows it."""

import numpy as np

from keras_bilevel import checks


def estimate_transition(probabilities, percentile=97):
    """Estimates how often each class is labelled as each other one.

    The probabilities are those of a network that was trained on the noisy
    labels. What it predicts for the most typical example of class `i` is taken
    as the distribution of the labels of class `i`.

    Args:
        probabilities: Array of shape `(num_examples, num_classes)`, predicted
            probabilities of the noisy labels.
        percentile: Float in [0, 100]. The most typical example of a class is
            that of the highest probability up to this percentile: the highest
            ones may be outliers. 100 takes the argmax. Defaults to `97`.

    Returns:
        Float array of shape `(num_classes, num_classes)`, whose rows sum to 1:
        the `transition` of `kb.losses.ForwardCorrection`.

    Raises:
        ValueError: If `probabilities` is not a matrix of numbers in [0, 1] with
            rows that sum to 1, or `percentile` is not in [0, 100].

    Example:

    ```python
    net.fit(x, y, batch_size=128, epochs=30)
    flips = kb.losses.estimate_transition(net.predict(x))
    second.compile("adam", kb.losses.ForwardCorrection(flips))
    ```

    Reference:

    - [Patrini et al., 2017](https://arxiv.org/abs/1609.03683), section 4
    """
    p = checks.check_probabilities("probabilities", probabilities)
    percentile = float(checks.check_numbers("percentile", percentile, 0, 100))
    limits = np.percentile(p, percentile, axis=0, method="lower")
    below = np.where(p <= limits, p, -1.0)
    rows = p[np.argmax(below, axis=0)]
    return rows / rows.sum(axis=1, keepdims=True)
