"""Pages from elsewhere in the repository, and links that hold on both sides.

Links in Markdown name files of the repository, so that they work where it is
browsed. In the site they have to name pages.
"""

import json
import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A pattern of files in the repository, and the folder they have in the site.
COPIED = {
    "benchmarks/results/*.md": "results",
    "benchmarks/results/*.png": "results",
    "benchmarks/*.md": "project/benchmarks",
    "colab/*.ipynb": "notebooks",
    "CHANGELOG.md": "project",
    "CONTRIBUTING.md": "project",
}
# What stands for a file, or for a folder, that is not copied.
STANDS_FOR = {"README.md": "index.md", "benchmarks/results": "results.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def placed():
    """Returns paths in the site by their paths in the repository."""
    pages = {
        f"docs/{path}": path
        for path in (
            file.relative_to(ROOT / "docs").as_posix()
            for file in (ROOT / "docs").rglob("*.md")
        )
        if not path.startswith("_build")
    }
    for pattern, folder in COPIED.items():
        for file in ROOT.glob(pattern):
            name = file.relative_to(ROOT).as_posix()
            pages[name] = f"{folder}/{file.name}"
    return {**pages, **STANDS_FOR}


def copy():
    """Copies the pages that live elsewhere, where they have changed."""
    for pattern, folder in COPIED.items():
        target = ROOT / "docs" / folder
        target.mkdir(parents=True, exist_ok=True)
        for file in ROOT.glob(pattern):
            here, content = target / file.name, _content(file)
            if not here.exists() or here.read_bytes() != content:
                here.write_bytes(content)


def _content(file):
    if file.suffix != ".ipynb":
        return file.read_bytes()
    notebook = json.loads(file.read_text())
    notebook["metadata"].setdefault("language_info", {"name": "python"})
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("!"):
            commands = re.sub("^!", "", source, flags=re.MULTILINE)
            cell["source"] = f"```sh\n{commands}\n```"
            cell["cell_type"] = "markdown"
            del cell["outputs"], cell["execution_count"]
    return json.dumps(notebook).encode()


def with_site_links(text, origin, page, pages):
    """Returns Markdown whose relative links name pages of the site.

    Args:
        text: String.
        origin: String, the text's own path in the repository.
        page: String, its path in the site.
        pages: Dictionary, as of `placed`.

    Returns:
        String. What is in the repository but not in the site is named instead
        of linked.

    Raises:
        ValueError: If a link leads nowhere.
    """

    def replaced(match):
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(
            posixpath.join(posixpath.dirname(origin), path)
        )
        if path in pages:
            place = posixpath.relpath(pages[path], posixpath.dirname(page))
            return f"{mark}[{words}]({place}{anchor and '#' + anchor})"
        if (ROOT / path).exists():
            return words if path in words else f"{words} (`{path}`)"
        raise ValueError(f"{origin} has a link that leads nowhere: {target}")

    return _LINK.sub(replaced, text)


def setup(app):
    """Copies the pages, and changes links as Sphinx reads them."""
    copy()
    pages = placed()
    origins = {page: path for path, page in pages.items()}
    origins["index.md"] = "docs/index.md"
    origins["results.md"] = "docs/results.md"

    def read(app, docname, source):
        page = f"{docname}.md"
        if page in origins:
            source[0] = with_site_links(source[0], origins[page], page, pages)

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
