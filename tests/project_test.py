"""The files around the package: workflows, forms, citation."""

import pathlib
import tomllib

import pytest
import yaml

import keras_bilevel

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _read(path):
    return yaml.safe_load(path.read_text())


def _steps(workflow):
    return [s for job in workflow["jobs"].values() for s in job["steps"]]


def test_the_workflows_are_there():
    names = ["docs", "nightly", "notebooks", "publish", "tests"]
    assert [path.stem for path in WORKFLOWS] == names


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_can_only_read_and_knows_no_secret(path):
    workflow = _read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text()
    # YAML 1.1 takes the key `on` for a boolean.
    assert workflow[True]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        assert job.get("permissions", {}) in ({}, {"id-token": "write"})
    for step in _steps(workflow):
        assert ("uses" in step) != ("run" in step)
        # Whoever opens a pull request or a release chooses these words.
        assert "${{" not in step.get("run", "")


def test_only_the_publishing_job_gets_a_token():
    tokens = [
        (path.stem, name)
        for path in WORKFLOWS
        for name, job in _read(path)["jobs"].items()
        if "permissions" in job
    ]
    assert tokens == [("publish", "publish")]
    publish = _read(ROOT / ".github/workflows/publish.yml")
    assert publish[True] == {"release": {"types": ["published"]}}
    used = [step.get("uses", "") for step in _steps(publish)]
    assert any(u.startswith("pypa/gh-action-pypi-publish@") for u in used)


def test_oldest_and_newest_versions_are_tested():
    tests = _read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]
    rows = tests["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == {"3.11", "3.13"}
    (oldest,) = [row["pins"] for row in rows if row["pins"]]
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for pin in oldest.split():
        assert f'"{pin}"' in contributing
    (keras,) = [d for d in PROJECT["dependencies"] if d.startswith("keras")]
    assert keras.startswith("keras>=3.12,") and "keras==3.12.0" in oldest
    assert "tensorflow-cpu>=2.18," in PROJECT["optional-dependencies"]["cpu"][0]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_form_asks_for_versions_and_an_example(path):
    form = _read(path)
    assert form["name"] and form["description"]
    fields = {field["id"]: field for field in form["body"]}
    assert {"example", "versions"} <= fields.keys()
    assert fields["versions"]["validations"]["required"]


def test_citation_is_that_of_this_version():
    citation = _read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == keras_bilevel.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    assert [r["url"].rpartition("/")[2] for r in citation["references"]] == [
        "1809.01465",
        "1805.09622",
        "1911.02377",
    ]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
