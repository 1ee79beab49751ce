"""How many labels are wrong, from held-out predictions."""

import collections

import numpy as np

from keras_bilevel.checks import check_probabilities
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument

NUM_RESAMPLES = 1000


TauEstimate = collections.namedtuple("TauEstimate", "tau low high")


def suggest_tau(pred_probs, labels, level=0.95, seed=0):
    """Estimates the share of wrong labels, for a schedule's `tau`.

    This is confident learning. The threshold of a class is the mean probability
    of the class over the examples labelled with it. An example counts where at
    least one class reaches its threshold; the most probable of these is taken
    as its true label. The estimate is the share of counted examples whose given
    label is another one: first for each given label, then averaged over all
    examples. The interval comes from 1,000 bootstrap samples of the examples,
    with the same thresholds.

    The interval covers the sampling error of *this network's* disagreement with
    the labels, and nothing else. The estimate is too high for a weak network,
    as its errors look like wrong labels; a network that has memorized the
    labels it was trained on is weak in this sense as well. It is too low where
    the predictions are not held out, or where the inputs predict which labels
    are wrong. Use a network that was trained for a few epochs, on other
    examples with the same noise.

    Args:
        pred_probs: Float array of shape `(n, num_classes)`, the predicted
            probabilities (after the softmax) of examples that the network was
            not trained on; or, of shape `(n,)` or `(n, 1)`, the probability
            of class 1 of two (after the sigmoid).
        labels: The given, noisy labels: integers of shape `(n,)` or
            `(n, 1)`, or one-hot. Of two classes with one probability they
            may be booleans or floats as well.
        level: Float, the confidence level of the interval. Defaults to `0.95`.
        seed: Integer, of the bootstrap. Defaults to `0`.

    Returns:
        Named tuple `(tau, low, high)` of floats: the estimate, and the
        interval's ends.

    Raises:
        ValueError: If the rows of `pred_probs` are no probabilities, or
            `labels` are no labels for them.

    Example:

    ```python
    model.fit(x[1000:], y[1000:], epochs=3)
    tau, low, high = kb.schedules.suggest_tau(
        model.predict(x[:1000]), y[:1000]
    )
    schedule = kb.schedules.CoTeachingSchedule(tau)
    ```

    Reference:

    - [Northcutt et al., 2021](https://arxiv.org/abs/1911.00068)
    """
    if not 0 < level < 1:
        raise wrong_argument("level", level, "a float between 0 and 1")
    pred_probs, labels = _from_sigmoid(pred_probs, labels)
    pred_probs = check_probabilities("pred_probs", pred_probs)
    cells = _count(pred_probs, _read_labels(labels, pred_probs.shape))
    # With fixed thresholds a bootstrap sample is a draw of the cells' counts.
    draws = np.random.default_rng(seed).multinomial(
        len(pred_probs), cells.ravel() / len(pred_probs), size=NUM_RESAMPLES
    )
    noise = _noise(draws.reshape(-1, *cells.shape))
    low, high = np.quantile(noise, [(1 - level) / 2, (1 + level) / 2])
    # Resampling no disagreement gives none. So much of it could have gone
    # unseen ("rule of three").
    unseen = 1 - (1 - level) ** (1 / cells[:, :2].sum())
    return TauEstimate(
        float(_noise(cells)), float(low), float(max(high, unseen))
    )


def _count(pred_probs, labels):
    """Counts examples as (believed wrong, believed right, not counted).

    Returns:
        Integer array of shape `(num_classes, 3)`, by given label.
    """
    rows = np.arange(len(labels))
    num_classes = pred_probs.shape[1]
    sizes = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, pred_probs[rows, labels], num_classes)
    # A class that no example is labelled with is never reached. The tolerance:
    # the mean of equal numbers may round to above them.
    thresholds = np.full(num_classes, np.inf)
    np.divide(sums, sizes, out=thresholds, where=sizes > 0)
    confident = pred_probs >= thresholds - 1e-6
    believed = np.argmax(np.where(confident, pred_probs, -1.0), axis=1)
    outcome = np.where(
        np.any(confident, axis=1), (believed == labels).astype("int64"), 2
    )
    cells = np.zeros((num_classes, 3), "int64")
    np.add.at(cells, (labels, outcome), 1)
    return cells


def _noise(cells):
    """The share of wrong labels, from counts of shape `(.., classes, 3)`."""
    counted = cells[..., 0] + cells[..., 1]
    rates = cells[..., 0] / np.maximum(counted, 1)
    sizes = np.where(counted > 0, np.sum(cells, axis=-1), 0)
    return np.sum(sizes * rates, -1) / np.maximum(np.sum(sizes, -1), 1)


def _from_sigmoid(pred_probs, labels):
    """The probabilities of two classes, where one column gives them."""
    pred_probs, labels = np.asarray(pred_probs, "float64"), np.asarray(labels)
    if pred_probs.size == 0 or pred_probs.shape[1:] not in ((), (1,)):
        return pred_probs, labels
    second = pred_probs.reshape(-1)
    if not np.all((second >= 0) & (second <= 1)):
        raise wrong(
            "argument `pred_probs`",
            "probabilities of class 1 of two, in [0, 1]",
            f"one column of numbers from {np.min(second)} to {np.max(second)}",
            "Apply `keras.ops.sigmoid` to logits.",
        )
    # The labels of a sigmoid are often floats.
    if labels.dtype.kind in "bf" and np.all((labels == 0) | (labels == 1)):
        labels = labels.astype("int64")
    return np.stack([1 - second, second], axis=1), labels


def _read_labels(labels, shape):
    labels = np.asarray(labels)
    if labels.shape == shape and shape[1] > 1:
        labels = np.argmax(labels, axis=1)
    if labels.shape == (shape[0], 1):
        labels = labels[:, 0]
    is_label = labels.dtype.kind in "iu" and labels.shape == shape[:1]
    if not is_label or np.min(labels) < 0 or np.max(labels) >= shape[1]:
        raise wrong(
            "argument `labels`",
            f"integers in [0, {shape[1]}) of shape ({shape[0]},), or one-hot "
            "labels, one for each row of `pred_probs`",
            f"dtype {labels.dtype} and shape {labels.shape}",
        )
    return labels
