import io

import numpy as np
import pytest

from keras_bilevel import report

SCORES = [0.9, 0.1, np.nan, 0.4, 0.6, np.nan]
LABELS = np.array([2, 0, 2, 0, 2, 1])


@pytest.mark.parametrize("choice", [{"threshold": 0.4}, {"keep": 0.75}])
@pytest.mark.parametrize("y", [LABELS, np.eye(3)[LABELS]])
def test_shares_by_hand(choice, y):
    shares = report.class_shares(SCORES, y, **choice)
    assert list(shares) == ["class", "kept", "count"]
    # Nobody has seen class 1.
    assert shares["class"].tolist() == ["0", "2"]
    assert shares["kept"].tolist() == [0.5, 1.0]
    assert shares["count"].tolist() == [2, 2]


def test_class_names():
    names = ["cat", "dog", "owl"]
    shares = report.class_shares(
        SCORES, LABELS, threshold=0.4, class_names=names
    )
    assert shares["class"].tolist() == ["cat", "owl"]


def test_error_without_a_choice():
    with pytest.raises(ValueError, match="exactly one.*Received"):
        report.class_shares(SCORES, LABELS)


def test_plot():
    names = ["$\\x$", "b", "<c>"]  # Not read as a formula.
    shares = report.class_shares(SCORES, LABELS, keep=0.75, class_names=names)
    ax = report.plot_class_shares(shares)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [0.5, 1.0]
    png = io.BytesIO()
    ax.figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")
