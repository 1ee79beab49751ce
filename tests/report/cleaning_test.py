import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_bilevel import report

SCORES = np.array([0.9, 0.1, np.nan, 0.4, 0.6])
KEPT = [0, 4]  # Those at or above 0.5, and half of the seen.


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.one_of(st.just(np.nan), st.floats(-1, 1), st.just(0.0))),
    keep=st.floats(0, 1),
)
def test_keep_is_exact_and_prefers_high_scores(scores, keep):
    scores = np.array(scores, "float64")
    mask = report.keep_mask(scores, keep=keep)
    seen = ~np.isnan(scores)
    assert mask.sum() == round(keep * seen.sum())
    assert not np.any(mask & ~seen)
    removed = seen & ~mask
    if mask.any() and removed.any():
        assert scores[mask].min() >= scores[removed].max()
    first = report.suspects(scores)["id"][: removed.sum()]
    np.testing.assert_array_equal(np.flatnonzero(removed), sorted(first))


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.one_of(st.just(np.nan), st.floats())),
    threshold=st.floats(allow_nan=False),
)
def test_threshold_keeps_what_is_at_or_above(scores, threshold):
    mask = report.keep_mask(np.array(scores, "float64"), threshold=threshold)
    assert mask.tolist() == [score >= threshold for score in scores]


def test_ties_keep_the_later_rows():
    mask = report.keep_mask([0.5, 0.5, 0.5, 0.1], keep=0.5)
    np.testing.assert_array_equal(mask, [False, True, True, False])


def test_threshold_in_the_precision_of_the_scores():
    scores = np.array([0.7, 0.6999], "float32")
    assert report.keep_mask(scores, threshold=0.7).tolist() == [True, False]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"keep": 0.5, "threshold": 0.5},
        {"keep": 1.5},
        {"keep": -0.1},
        {"keep": float("nan")},
        {"keep": "half"},
        {"threshold": float("nan")},
        {"threshold": [0.5]},
    ],
)
def test_invalid_choices(choice):
    with pytest.raises(ValueError, match="Expected.*Received"):
        report.keep_mask(SCORES, **choice)


def test_cleaned_arrays():
    x = np.arange(10).reshape(5, 2)
    y = tf.range(5)
    x_kept, y_kept, none = report.cleaned(SCORES, (x, y, None), threshold=0.5)
    np.testing.assert_array_equal(x_kept, x[KEPT])
    np.testing.assert_array_equal(y_kept, KEPT)
    assert none is None


def test_cleaned_structures():
    data = ({"a": np.arange(5), "b": (np.eye(5), np.ones(5))}, np.arange(5))
    cleaned = report.cleaned(SCORES, data, keep=0.5)
    keras.tree.assert_same_structure(data, cleaned)
    np.testing.assert_array_equal(cleaned[0]["a"], KEPT)
    np.testing.assert_array_equal(cleaned[0]["b"][0], np.eye(5)[KEPT])
    np.testing.assert_array_equal(cleaned[1], KEPT)


def test_cleaned_lists_are_an_error():
    with pytest.raises(ValueError, match="5 rows.*Received: int"):
        report.cleaned(SCORES, [0, 1, 2, 3, 4], keep=0.5)


def dataset_of(*parts):
    return tf.data.Dataset.from_tensor_slices(parts)


def labels_of(dataset):
    return [int(element[1]) for element in dataset]


def test_cleaned_dataset_by_position():
    dataset = dataset_of({"a": np.eye(5)}, np.arange(5))
    cleaned = report.cleaned(SCORES, dataset, threshold=0.5)
    assert cleaned.element_spec == dataset.element_spec
    assert labels_of(cleaned) == labels_of(cleaned) == KEPT
    assert cleaned.cardinality() == len(KEPT)


def test_cleaned_dataset_of_bare_tensors():
    cleaned = report.cleaned(SCORES, tf.data.Dataset.range(5), keep=0.5)
    assert [int(i) for i in cleaned] == KEPT


def test_cleaned_dataset_by_ids():
    ids = np.array([4, 0, 1, 2])
    dataset = dataset_of(np.eye(4), ids, np.ones(4), ids).shuffle(4)
    cleaned = report.cleaned(SCORES, dataset, threshold=0.5)
    assert cleaned.element_spec == dataset.element_spec
    assert sorted(labels_of(cleaned)) == sorted(labels_of(cleaned)) == KEPT


def test_ids_outside_the_scores_are_an_error():
    parts = np.eye(2), np.arange(2), np.ones(2)
    for ids in ([0, 5], [0, -1]):
        cleaned = report.cleaned(SCORES, dataset_of(*parts, ids), keep=0.5)
        with pytest.raises(tf.errors.InvalidArgumentError):
            list(cleaned)


def test_wrong_datasets():
    dataset = dataset_of(np.eye(5), np.arange(5))
    for other in (dataset.take(4), dataset.batch(2), dataset.repeat()):
        with pytest.raises(ValueError, match="5 single.*Received.*`batch`"):
            report.cleaned(SCORES, other, keep=0.5)
    with_ids = dataset_of(np.eye(5), *[np.arange(5)] * 3).batch(2)
    with pytest.raises(ValueError, match="single.*Received: ids of shape"):
        report.cleaned(SCORES, with_ids, keep=0.5)


@pytest.mark.parametrize("size", [3, 6])
def test_wrong_size_that_shows_late_is_an_error(size):
    dataset = tf.data.Dataset.range(size).filter(lambda i: True)
    cleaned = report.cleaned(SCORES, dataset, threshold=0.5)
    with pytest.raises(tf.errors.OpError):
        list(cleaned)
