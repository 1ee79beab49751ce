import base64
import re

import numpy as np
import pytest

from keras_bilevel import report

SCORES = np.append(np.linspace(0, 1, 12), np.nan)
X = np.random.default_rng(0).random((13, 6, 6, 3))
Y = np.arange(13) % 3
WRONG = SCORES < 0.3
NAMES = ["<script>cat</script>", 'b"&', "Käuzchen"]


def test_full_page(tmp_path):
    path = tmp_path / "page.html"
    returned = report.write_html(
        SCORES,
        path,
        X,
        Y,
        WRONG,
        ids=[f"<i>id{i}" for i in range(13)],
        class_names=NAMES,
        title="<b>& $title",
        count=5,
    )
    assert returned == path
    page = path.read_text(encoding="utf-8")
    for markup in ("<script>", "<b>", "<i>"):
        assert markup not in page
    assert "&lt;script&gt;cat&lt;/script&gt;" in page
    assert "Käuzchen" in page
    assert page.count("&lt;b&gt;&amp; $title") == 2
    assert "13 examples, 12 of them seen" in page
    assert page.count("<tr") == 1 + 5
    assert "<td>&lt;i&gt;id0</td>" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == 3
    for image in images:
        assert base64.b64decode(image).startswith(b"\x89PNG")
    assert "src=" not in re.sub(r'src="data:', "", page)


@pytest.mark.parametrize(
    "given,count",
    [({}, 0), ({"x": X}, 1), ({"y": Y}, 1), ({"wrong": WRONG}, 1)],
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


def test_invalid_count_writes_nothing(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match="`count`.*Received"):
        report.write_html(SCORES, path, count=0)
    assert not path.exists()
