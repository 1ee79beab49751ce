import io

import numpy as np
import pytest

from keras_bilevel import report

COLUMNS = ["threshold", "kept", "precision", "recall", "noise", "accuracy"]


def test_sweep_by_hand():
    scores = [0.1, 0.9, 0.4, 0.2, 0.4, np.nan]
    wrong = [True, False, True, False, False, True]
    sweep = report.threshold_sweep(scores, wrong, [0.0, 0.2, 0.4, 0.5, 1.0])
    assert list(sweep) == COLUMNS
    expected = [
        # Removed of the five seen: none, 0.1, 0.2 too, 0.4 twice, all.
        [0.0, 1.0, np.nan, 0.0, 2 / 5, 3 / 5],
        [0.2, 0.8, 1.0, 0.5, 1 / 4, 4 / 5],
        [0.4, 0.6, 1 / 2, 0.5, 1 / 3, 3 / 5],
        [0.5, 0.2, 2 / 4, 1.0, 0.0, 3 / 5],
        [1.0, 0.0, 2 / 5, 1.0, np.nan, 2 / 5],
    ]
    np.testing.assert_allclose(sweep.to_numpy(), expected)


def test_default_thresholds_keep_every_hundredth():
    scores = np.random.default_rng(0).normal(size=1000).astype("float32")
    wrong = scores < -1
    sweep = report.threshold_sweep(scores, wrong)
    np.testing.assert_allclose(sweep["kept"], np.linspace(1, 0, 101))
    assert np.all(np.diff(sweep["threshold"]) > 0)
    assert sweep["accuracy"].max() > 0.99


def test_default_thresholds_of_few_or_equal_scores():
    three = report.threshold_sweep([0.1, 0.2, 0.3], [True, False, False])
    np.testing.assert_allclose(three["kept"], [1, 2 / 3, 1 / 3, 0])
    tied = report.threshold_sweep([1.0, 1.0, 0.5], [False, False, True])
    np.testing.assert_allclose(tied["kept"], [1, 2 / 3, 0])


def test_sweep_agrees_with_the_mask():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, 300) / np.float32(10)
    wrong = rng.random(300) < 0.3
    for row in report.threshold_sweep(scores, wrong).itertuples():
        mask = report.keep_mask(scores, threshold=row.threshold)
        assert row.kept == mask.mean()
        assert row.accuracy == np.mean(mask != wrong)


@pytest.mark.parametrize("value", [True, False])
def test_all_or_none_wrong(value):
    sweep = report.threshold_sweep([0.1, 0.2, 0.3], [value] * 3)
    assert np.all(sweep["recall"].isna() == (not value))
    assert sweep["noise"].dropna().tolist() == [float(value)] * 3
    assert sweep["precision"].dropna().tolist() == [float(value)] * 3
    assert len(png_of(report.plot_threshold_sweep(sweep)))


def test_infinite_scores_have_their_place():
    sweep = report.threshold_sweep([-np.inf, 0.0, np.inf], [True, False, False])
    np.testing.assert_allclose(sweep["kept"], [1, 2 / 3, 1 / 3])


def test_a_million_scores():
    scores = np.random.default_rng(0).random(1_000_000)
    sweep = report.threshold_sweep(scores, scores < 0.4)
    np.testing.assert_allclose(sweep["kept"], np.linspace(1, 0, 101))


@pytest.mark.parametrize("wrong", [[0, 1, 0], ["a", "b", "c"]])
def test_invalid_wrong(wrong):
    with pytest.raises(ValueError, match="`wrong`.*booleans.*Received"):
        report.threshold_sweep([0.1, 0.2, 0.3], wrong)


@pytest.mark.parametrize("thresholds", [0.5, [np.nan], [[0.5]]])
def test_invalid_thresholds(thresholds):
    with pytest.raises(ValueError, match="`thresholds`.*Received"):
        report.threshold_sweep([0.1], [True], thresholds)


def png_of(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


@pytest.mark.parametrize("noise_level,line", [(None, 0.25), (0.4, 0.4)])
def test_plot(noise_level, line):
    sweep = report.threshold_sweep([0.1, 0.5, 0.6, 0.7], [True] + [False] * 3)
    figure = report.plot_threshold_sweep(sweep, noise_level)
    left, right = figure.axes
    assert left.lines[1].get_ydata()[0] == line
    assert len(right.lines) == 3
    assert png_of(figure).startswith(b"\x89PNG")
