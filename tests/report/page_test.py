"""The page of all reports."""

import base64
import io
import os
import re
import shutil
import subprocess

import keras
import matplotlib.image
import numpy as np
import pytest

import keras_bilevel as kb
from keras_bilevel import report

SCORES = np.append(np.linspace(0, 1, 12), np.nan)
X = np.random.default_rng(0).random((13, 6, 6, 3))
Y = np.arange(13) % 3
WRONG = SCORES < 0.3
NAMES = ["<script>cat</script>", 'b"&', "Käuzchen"]


def write_full(path):
    return report.write_html(
        SCORES,
        path,
        X,
        Y,
        WRONG,
        ids=[f"<i>id{i}" for i in range(13)],
        class_names=NAMES,
        pred_probs=np.tile([0.2, 0.5, 0.3], (13, 1)),
        settings={"rate": "<0.1>"},
        title="<b>& $title",
        count=5,
    )


def test_page_of_what_nobody_has_scored(tmp_path):
    path = tmp_path / "page.html"
    report.write_html(np.full(13, np.nan), path, X, Y)
    assert "<b>0</b>seen" in path.read_text(encoding="utf-8")


def test_predictions_that_are_no_probabilities_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="`pred_probs`. .* a sum of 1"):
        report.write_html(
            SCORES, tmp_path / "page.html", pred_probs=np.ones((13, 2))
        )


def test_full_page(tmp_path):
    path = tmp_path / "page.html"
    returned = write_full(path)
    assert returned == path
    page = path.read_text(encoding="utf-8")
    for markup in ("<script>cat", "<b>& $", "<i>"):
        assert markup not in page
    assert "&lt;script&gt;cat&lt;/script&gt;" in page
    assert "Käuzchen" in page
    assert page.count("&lt;b&gt;&amp; $title") == 2
    assert "<b>13</b>examples" in page and "<b>12</b>seen" in page
    assert page.count("<figure ") == 5
    assert page.count("<tr") == 1 + 5
    assert "<td>&lt;i&gt;id0</td>" in page
    assert '<span>likely</span> <b class="likely">b&quot;&amp;</b>' in page
    assert "<b>&lt;0.1&gt;</b>rate" in page
    assert f"<b>{kb.__version__}</b>keras_bilevel" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    # Five suspects, thresholds and classes.
    assert len(images) == 7
    for image in images:
        assert base64.b64decode(image).startswith(b"\x89PNG")
    assert "src=" not in re.sub(r'src="data:', "", page)


@pytest.mark.parametrize(
    "given,count",
    [({}, 0), ({"x": X}, 12), ({"y": Y}, 1), ({"wrong": WRONG}, 1)],
)
def test_sections_only_for_what_was_given(given, count, tmp_path):
    path = str(tmp_path / "page.html")
    assert report.write_html(SCORES, path, **given) == path
    with open(path, encoding="utf-8") as file:
        page = file.read()
    assert page.count("<img") == count
    assert page.count("<tr") == 1 + 12
    assert ("label</th>" in page) == ("y" in given)
    assert ("wrong</th>" in page) == ("wrong" in given)


def test_thumbnails_are_the_images(tmp_path):
    path = tmp_path / "page.html"
    images = (255 * X).astype("uint8")
    report.write_html(SCORES, path, images, count=1)
    image = re.search('base64,([^"]+)"', path.read_text(encoding="utf-8"))[1]
    shown = matplotlib.image.imread(io.BytesIO(base64.b64decode(image)))
    np.testing.assert_allclose(255 * shown[..., :3], images[0], atol=1)


def test_a_history_is_plotted(tmp_path):
    path = tmp_path / "page.html"
    curves = kb.callbacks.LabelCurves(np.zeros((13, 4), "float32"), Y)
    net = keras.Sequential([keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("sgd", loss)
    net.fit(curves.x, Y, verbose=0, callbacks=[curves])
    report.write_html(curves, path, y=Y)
    assert path.read_text(encoding="utf-8").count("<img") == 2


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def test_a_browser_shows_and_filters(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"None of {', '.join(BROWSERS)} is installed.")
    path = tmp_path / "page.html"
    write_full(path)
    page = path.read_text(encoding="utf-8")
    # As if somebody had typed the name of one suspect.
    typed = 'search.value = "ID3"; filter();'
    path.write_text(page.replace("filter();\n</script>", typed + "</script>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = subprocess.run(
        [browser, *flags, profile, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "1 of 5 shown" in shown
    assert shown.count('hidden=""') == 4


def test_invalid_count_writes_nothing(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match="`count`.*Received"):
        report.write_html(SCORES, path, count=0)
    assert not path.exists()


def test_labels_are_chosen_by_their_whole_name(tmp_path):
    path = tmp_path / "page.html"
    names = [" cat", "two  words", 'b"&']
    report.write_html(SCORES, path, y=Y, class_names=names)
    page = path.read_text(encoding="utf-8")
    options = re.findall('<option value="([^"]+)">', page)
    assert options == [" cat", "b&quot;&amp;", "two  words"]
    assert set(options) == set(re.findall('data-label="([^"]+)"', page))


def test_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / "page.html"
    name = os.fsdecode(b"\xff.png")
    report.write_html(
        SCORES, path, y=Y, ids=[name] * 13, class_names=[name] * 3, title=name
    )
    page = path.read_text(encoding="utf-8")
    assert r"<h1>\udcff.png</h1>" in page
    assert page.count(r"<td>\udcff.png</td>") == 2 * 12
