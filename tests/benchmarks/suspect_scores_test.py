"""The comparison of scores, and that of what `suggest_settings` chooses."""

from benchmarks import suggested_settings
from benchmarks import suspect_scores


def records_of(module, changes, count):
    """Returns records of the first runs, made short."""
    experiment = module.EXPERIMENT
    preset = {**experiment.presets["quick"], "seeds": [0]}
    plan = experiment.stages[0](preset, [])
    plan = [{**settings, **changes} for settings in plan[:count]]
    return [
        {"settings": settings, "metrics": experiment.run(settings)}
        for settings in plan
    ]


def test_every_score_finds_wrong_labels():
    records = records_of(suspect_scores, {"epochs": 12}, count=4)
    assert [r["settings"]["method"] for r in records] == [
        "plain",
        "bilevel",
        "out_of_sample",
        "soseleto",
    ]
    plain, bilevel, others, clean = (r["metrics"] for r in records)
    assert set(plain) == {*suspect_scores.DYNAMICS, "last"} == set(bilevel)
    for found in (plain, bilevel):
        for name in ("score", "margin", "correctness", "last"):
            assert found[name] > 0.8, name
    assert others["out_of_sample"] > 0.8 and clean["alignment"] > 0.6
    header, *rows = suspect_scores.EXPERIMENT.report(records).table
    assert header == ["trained by", "score", "digits, 40% symmetric"]
    assert len(rows) == 2 * 6 + 2 and all(row[2] != "-" for row in rows)


def test_suggestions_are_compared_with_all_settings(monkeypatch):
    monkeypatch.setattr(
        suggested_settings.tool,
        "all_settings",
        lambda *args: [
            suggested_settings.tool._Setting(0, False),
            suggested_settings.tool._Setting(8, False),
        ],
    )
    (record,) = records_of(suggested_settings, {"epochs": 2}, count=1)
    found = record["metrics"]
    assert set(found["test"]) == set(found["held_out"])
    assert found["worst"] <= found["suggested"] <= found["best"]
    assert found["suggested"] == found["test"][found["name"]]
    header, row = suggested_settings.EXPERIMENT.report([record]).table
    assert row[0] == "digits, 50% symmetric, sgd"
    assert row[5] == found["name"]
