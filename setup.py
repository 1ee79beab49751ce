"""What pyproject.toml cannot say: README's links, as package indexes need them.

An index shows the README alone, so links to files of the repository have to be
whole addresses there.
"""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/keras-bilevel/keras-bilevel"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)")


def absolute(match):
    image, text, path = match.groups()
    folder = "raw" if image else "blob"
    return f"{image}[{text}]({REPOSITORY}/{folder}/main/{path})"


setup(
    long_description=LINK.sub(absolute, Path("README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
