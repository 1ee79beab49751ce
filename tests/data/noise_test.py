import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_bilevel.data import noise

few = settings(max_examples=25, deadline=None)
MATRIX = np.array([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.5, 0.0, 0.5]])

FLIPS = {
    "symmetric": lambda y, **kw: noise.symmetric(y, 0.4, **kw),
    "independent": lambda y, **kw: noise.symmetric(y, 0.4, exact=False, **kw),
    "pair_flip": lambda y, **kw: noise.pair_flip(y, 0.4, **kw),
    "uniform": lambda y, **kw: noise.uniform(y, **kw),
    "confusion": lambda y, **kw: noise.confusion(y, MATRIX, **kw),
}


def make_labels(n=300, num_classes=3, seed=0):
    return np.random.default_rng(seed).integers(num_classes, size=n)


def assert_binomial(count, n, probability):
    """Within five standard deviations."""
    spread = np.sqrt(n * probability * (1 - probability))
    assert abs(count - n * probability) <= 5 * spread + 1


@few
@given(
    fraction=st.floats(0, 1),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_exact_noise_counts_per_class(fraction, num_classes, seed):
    labels = make_labels(num_classes=num_classes, seed=seed)
    for function in (noise.symmetric, noise.pair_flip):
        noisy, mask = function(labels, fraction, num_classes, seed=seed)
        np.testing.assert_array_equal(mask, noisy != labels)
        assert noisy.min() >= 0 and noisy.max() < num_classes
        for label in range(num_classes):
            members = labels == label
            assert mask[members].sum() == round(fraction * members.sum())


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels = np.full(30_000, 2)
    noisy, mask = noise.symmetric(labels, 0.9, 10, seed=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[2] == 3_000
    for label in set(range(10)) - {2}:
        assert_binomial(counts[label], 27_000, 1 / 9)


def test_independent_flips_have_the_right_rate():
    labels = make_labels(30_000)
    for function in (noise.symmetric, noise.pair_flip):
        _, mask = function(labels, 0.3, exact=False, seed=0)
        assert_binomial(mask.sum(), 30_000, 0.3)
        assert mask.sum() != 9_000


def test_pair_flip_goes_to_the_next_class():
    labels = make_labels()
    noisy, mask = noise.pair_flip(labels, 0.45, 3, seed=0)
    np.testing.assert_array_equal(noisy[mask], (labels[mask] + 1) % 3)


def test_confusion_follows_the_matrix():
    labels = make_labels(30_000)
    noisy, _ = noise.confusion(labels, MATRIX, seed=0)
    for i in range(3):
        members = noisy[labels == i]
        for j in range(3):
            count = np.sum(members == j)
            assert_binomial(count, len(members), MATRIX[i, j])


@few
@given(
    fraction=st.floats(0, 1),
    num_classes=st.integers(2, 12),
    seed=st.integers(0, 1000),
)
def test_random_confusion_matrix(fraction, num_classes, seed):
    matrix = noise.random_confusion_matrix(num_classes, fraction, seed)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(np.diag(matrix), 1 - fraction)
    assert np.all(matrix >= 0)
    again = noise.random_confusion_matrix(num_classes, fraction, seed)
    np.testing.assert_array_equal(matrix, again)


def test_random_confusion_has_the_noise_level():
    labels = make_labels(30_000, num_classes=10)
    matrix = noise.random_confusion_matrix(10, 0.4, seed=0)
    assert matrix[0, 1:].std() > 0.01
    _, mask = noise.confusion(labels, matrix, seed=1)
    assert_binomial(mask.sum(), 30_000, 0.4)


def test_uniform_noise_leaves_one_in_c():
    labels = make_labels(30_000, num_classes=5)
    noisy, mask = noise.uniform(labels, seed=0)
    assert_binomial(mask.sum(), 30_000, 0.8)
    for count in np.bincount(noisy, minlength=5):
        assert_binomial(count, 30_000, 0.2)


@pytest.mark.parametrize("name", FLIPS)
def test_seed_input_and_forms(name):
    flip = FLIPS[name]
    labels = make_labels().astype("uint8")
    before = labels.copy()
    noisy, mask = flip(labels, seed=0)
    assert noisy.dtype == labels.dtype and noisy.shape == labels.shape
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(mask, noisy != labels)
    np.testing.assert_array_equal(flip(labels, seed=0)[0], noisy)
    assert np.any(flip(labels, seed=1)[0] != noisy)

    column, column_mask = flip(labels[:, None], seed=0)
    np.testing.assert_array_equal(column, noisy[:, None])
    np.testing.assert_array_equal(column_mask, mask)

    one_hot = np.eye(3, dtype="float32")[labels]
    vectors, vector_mask = flip(one_hot, seed=0)
    assert vectors.dtype == one_hot.dtype
    np.testing.assert_array_equal(vectors, np.eye(3)[noisy])
    np.testing.assert_array_equal(vector_mask, mask)


def test_set_random_seed_fixes_an_open_seed():
    labels = make_labels()
    keras.utils.set_random_seed(1)
    expected, _ = noise.uniform(labels)
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(noise.uniform(labels)[0], expected)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 4)])
def test_pixel_permutation(shape):
    images = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    images[0] = 7  # Looks the same however it is permuted.
    before = images.copy()
    noisy, mask = noise.pixel_permutation(images, seed=0)
    assert noisy.shape == shape and noisy.dtype == images.dtype
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(mask, [False] + [True] * 5)
    pixels = images.reshape(6, 20, -1)
    shuffled = noisy.reshape(6, 20, -1)
    orders = []
    for old, new in zip(pixels[1:], shuffled[1:], strict=True):
        order = [old.tolist().index(pixel) for pixel in new.tolist()]
        assert sorted(order) == list(range(20))  # Channels stay together.
        orders.append(order)
    assert len(set(map(tuple, orders))) == 5
    again, _ = noise.pixel_permutation(images, seed=0)
    np.testing.assert_array_equal(again, noisy)


def test_one_pixel_permutation_for_all():
    images = np.arange(120).reshape(3, 5, 4, 2)
    noisy, _ = noise.pixel_permutation(images, per_image=False, seed=0)
    np.testing.assert_array_equal(noisy[1] - noisy[0], np.full((5, 4, 2), 40))
    assert np.any(noisy != images)


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.BatchNormalization(),
            keras.layers.Dense(16),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


def test_predicted_labels_leave_the_model_alone():
    x = np.random.default_rng(0).normal(size=(70, 4)).astype("float32")
    labels = make_labels(70)
    model = make_model()
    model(x)
    before = [variable.numpy() for variable in model.variables]
    noisy, mask = noise.predicted(model, x, labels, seed=0)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    np.testing.assert_array_equal(mask, noisy != labels)
    again, _ = noise.predicted(model, x, labels, seed=0)
    np.testing.assert_array_equal(again, noisy)
    other, _ = noise.predicted(model, x, labels, seed=1)
    assert np.any(other != noisy)  # Dropout is on.


def test_predicted_labels_of_an_unbuilt_model_and_nested_inputs():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    labels = np.eye(3)[make_labels(20)]
    noisy, _ = noise.predicted(make_model(), x, labels, seed=0)
    assert noisy.shape == labels.shape
    np.testing.assert_array_equal(noisy.sum(axis=1), 1)
    inputs = [keras.Input((4,)), keras.Input((4,))]
    outputs = keras.layers.Dense(3)(keras.layers.add(inputs))
    model = keras.Model(inputs, outputs)
    noisy, _ = noise.predicted(model, [x, x], labels, seed=0)
    expected = model.predict([x, x], verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(noisy.argmax(axis=1), expected)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "half", float("nan")])
def test_fraction_error(fraction):
    for function in (noise.symmetric, noise.pair_flip):
        with pytest.raises(ValueError, match="`fraction`"):
            function(make_labels(), fraction)
    with pytest.raises(ValueError, match="`fraction`"):
        noise.random_confusion_matrix(3, fraction)


@pytest.mark.parametrize(
    "labels",
    [np.random.rand(9), np.ones((9, 3)), np.zeros((3, 3, 3), int)],
)
@pytest.mark.parametrize("name", FLIPS)
def test_labels_error(labels, name):
    with pytest.raises(ValueError, match="`labels`"):
        FLIPS[name](labels)


@pytest.mark.parametrize("names", [[1, 2, 3], [-1, 1], [7, 0x7F00, 5]])
@pytest.mark.parametrize("name", ["symmetric", "pair_flip", "uniform"])
def test_labels_that_do_not_start_at_zero(names, name):
    names = np.sort(names)
    places = make_labels(num_classes=len(names))
    expected, expected_mask = FLIPS[name](places, seed=0)
    for labels in (names[places], names[places].astype("int16")[:, None]):
        noisy, mask = FLIPS[name](labels, seed=0)
        assert noisy.dtype == labels.dtype
        np.testing.assert_array_equal(
            noisy, names[expected].reshape(labels.shape)
        )
        np.testing.assert_array_equal(mask, expected_mask)


def test_given_classes_start_at_zero():
    labels = np.array([1, 2, 3])
    assert noise.pair_flip(labels, 1.0, 4)[0].tolist() == [2, 3, 0]
    for function in (noise.uniform, lambda y, n: noise.symmetric(y, 0.5, n)):
        with pytest.raises(ValueError, match=r"in \[0, 3\).*from 1 to 3"):
            function(labels, 3)
    with pytest.raises(ValueError, match=r"in \[0, 3\).*from 1 to 3"):
        noise.confusion(labels, MATRIX)
    both = noise.pair_flip(np.array([True, True]), 1.0)[0]
    assert both.tolist() == [False, False]


def test_labels_of_tokens_and_names_error():
    for labels in (np.zeros((4, 5), int), np.array(["a", "b"])):
        with pytest.raises(ValueError, match=r"reshape\(-1\).*np.unique"):
            noise.uniform(labels)


def test_predicted_labels_are_columns_of_the_network():
    x = np.zeros((2, 4), "float32")
    noisy, _ = noise.predicted(make_model(), x, np.array([1, 2]), seed=0)
    assert set(noisy) <= {0, 1, 2}
    with pytest.raises(ValueError, match=r"in \[0, 3\).*from 1 to 3"):
        noise.predicted(make_model(), x, np.array([1, 3]), seed=0)


def test_classes_error():
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        noise.symmetric(np.array([0, 2]), 0.5, num_classes=2)
    with pytest.raises(ValueError, match="classes from -1"):
        noise.uniform(np.array([-1, 2]), num_classes=3)
    with pytest.raises(ValueError, match="`num_classes`"):
        noise.symmetric(np.zeros(5, int), 0.5)
    with pytest.raises(ValueError, match="width"):
        noise.uniform(np.eye(3), num_classes=4)


@pytest.mark.parametrize(
    "matrix",
    [np.ones((2, 3)) / 3, np.ones((3, 3)), [[1.5, -0.5], [0.0, 1.0]]],
)
def test_matrix_error(matrix):
    with pytest.raises(ValueError, match="`matrix`"):
        noise.confusion(np.array([0, 1]), matrix)


def test_images_error():
    with pytest.raises(ValueError, match="`images`"):
        noise.pixel_permutation(np.zeros((3, 4)))


def test_model_output_error():
    model = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model`"):
        noise.predicted(model, np.zeros((5, 2)), np.arange(5))


@pytest.mark.parametrize("dtype", ["int8", "bool"])
def test_classes_that_a_dtype_does_not_hold_error(dtype):
    labels = np.zeros(50, dtype)
    with pytest.raises(ValueError, match="class 199.*astype"):
        noise.symmetric(labels, 1.0, num_classes=200, seed=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "at least one label"), ([0, 0], "num_classes=1. Pass it where")],
)
def test_labels_of_too_few_classes_error(labels, message):
    with pytest.raises(ValueError, match=message):
        noise.symmetric(np.array(labels, "int64"), 0.5)
