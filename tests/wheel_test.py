"""What is built and published: the package, and nothing beside it."""

import email
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import keras_bilevel

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _installed(name):
    """Returns the first number of an installed version, 0 if it is missing."""
    try:
        return int(importlib.metadata.version(name).split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with an sdist, and the wheel that was built from it."""
    for name, oldest in (("build", 1), ("setuptools", 77)):
        if _installed(name) < oldest:
            pytest.skip(f"needs {name}>={oldest}, of the extra `test`")
    folder = tmp_path_factory.mktemp("built")
    # A copy, as setuptools writes beside the sources.
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "out"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    # Without isolation nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation"]
    done = subprocess.run(
        [*command, "--outdir", folder, source],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def _modules():
    package = ROOT / "keras_bilevel"
    found = [*package.rglob("*.py"), *package.rglob("*.html")]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_wheel_has_the_package_alone(built):
    with zipfile.ZipFile(_only(built, "*.whl")) as wheel:
        names = set(wheel.namelist())
        (license_name,) = [n for n in names if n.endswith("/LICENSE")]
        text = wheel.read(license_name).decode()
    assert {n for n in names if ".dist-info/" not in n} == _modules()
    assert text == (ROOT / "LICENSE").read_text()


def test_sdist_has_what_the_wheel_is_built_from(built):
    with tarfile.open(_only(built, "*.tar.gz")) as sdist:
        names = {n.partition("/")[2] for n in sdist.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert _modules() <= names
    folders = {n.split("/")[0] for n in names if n.endswith(".py")}
    assert folders == {"keras_bilevel", "setup.py"}


def test_metadata_is_that_of_the_project(built):
    with zipfile.ZipFile(_only(built, "*.whl")) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith("/METADATA")]
        metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == keras_bilevel.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert len(metadata.get_all("Project-URL")) == len(PROJECT["urls"])


def test_links_of_the_description_lead_out_of_an_index(built):
    with zipfile.ZipFile(_only(built, "*.whl")) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith("/METADATA")]
        text = wheel.read(name).decode()
    links = re.findall(r"\]\(([^)]+)\)", text)
    home = f"{PROJECT['urls']['Homepage']}/"
    assert len(links) > 20
    ours = [link for link in links if link.startswith(home)]
    assert f"{home}raw/main/benchmarks/results/long_training.png" in ours
    for link in links:
        assert link.startswith("https://")
    for link in ours:
        path = re.sub("^(raw|blob)/main/", "", link.removeprefix(home))
        assert (ROOT / path.partition("#")[0]).exists(), link


def test_wheel_can_be_installed(built, tmp_path):
    if not _installed("pip"):
        pytest.skip("needs pip")
    command = [sys.executable, "-m", "pip", "install", "--no-deps"]
    subprocess.run(
        [
            *command,
            "--quiet",
            "--no-index",
            "--disable-pip-version-check",
            f"--target={tmp_path}",
            _only(built, "*.whl"),
        ],
        check=True,
    )
    # Run there, Python takes the installed copy before any other.
    code = (
        "import keras_bilevel as kb; "
        "print(kb.__version__, kb.__file__, kb.weighting.DeepBilevel.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    version, file, name = done.stdout.split()
    assert version == keras_bilevel.__version__
    assert pathlib.Path(file).is_relative_to(tmp_path.resolve())
    assert name == "DeepBilevel"


def test_one_version_everywhere():
    assert PROJECT["version"] == keras_bilevel.__version__
    heading = f"## {keras_bilevel.__version__} "
    assert heading in (ROOT / "CHANGELOG.md").read_text()
