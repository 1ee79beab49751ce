import io

import numpy as np
import pytest

from keras_bilevel import report


def titles_of(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def shown_by(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shapes_and_types_render(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, size=(9, *shape)).astype(dtype)
    figure = report.contact_sheet(np.arange(9), x, np.arange(9) % 2, count=3)
    assert len(shown_by(figure)) == 6
    png = io.BytesIO()
    figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")


def test_order_and_titles():
    scores = [0.5, np.nan, 0.125, 0.75, 1.0]
    x = np.zeros((5, 4, 4), "uint8")
    figure = report.contact_sheet(
        scores,
        x,
        [0, 1, 1, 0, 1],
        ids=list("abcde"),
        class_names=["$cat", "dog$"],
        count=2,
    )
    assert titles_of(figure) == [
        "c: dog$\n0.125",
        "a: $cat\n0.5",
        "e: dog$\n1",
        "d: $cat\n0.75",
    ]
    assert titles_of(report.contact_sheet(scores, x, count=1)) == [
        "2\n0.125",
        "4\n1",
    ]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_image_is_shown_twice(n):
    figure = report.contact_sheet(np.arange(n), np.zeros((n, 2, 2)))
    assert sorted(title.split("\n")[0] for title in titles_of(figure)) == [
        str(i) for i in range(n)
    ]


def test_scales():
    x = np.array([0, 51, 102, 255]).reshape(4, 1, 1)
    scores = np.array([0, 1, np.nan, 2])
    eight_bit = report.contact_sheet(scores[:2], x.astype("uint8")[:2])
    np.testing.assert_allclose(np.ravel(shown_by(eight_bit)), [0, 0.2])
    floats = report.contact_sheet(scores, x / 50 - 1)
    np.testing.assert_allclose(np.ravel(shown_by(floats)), [0, 0.2, 1])
    flat = report.contact_sheet(scores[:2], np.full((2, 1, 1), 7.0))
    np.testing.assert_allclose(np.ravel(shown_by(flat)), [0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_black(bad):
    x = np.array([1.0, bad, 2.0, 3.0]).reshape(4, 1, 1)
    figure = report.contact_sheet([0, 1, 3, 2], x)
    np.testing.assert_allclose(np.ravel(shown_by(figure)), [0, 0, 0.5, 1])
    nothing = report.contact_sheet([0, 1], np.full((2, 1, 1), bad))
    np.testing.assert_allclose(np.ravel(shown_by(nothing)), [0, 0])


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4, 2), (3, 4, 4, 3, 1)])
def test_invalid_images(shape):
    with pytest.raises(ValueError, match="`x`.*Received"):
        report.contact_sheet(np.arange(3), np.zeros(shape))


def test_invalid_count():
    with pytest.raises(ValueError, match="`count`.*Received: count=0"):
        report.contact_sheet(np.arange(3), np.zeros((3, 2, 2)), count=0)
