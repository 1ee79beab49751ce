"""The file of results survives interruptions."""

from benchmarks.journal import Journal


def _record(seed, **metrics):
    return {"settings": {"seed": seed, "rate": 0.1}, "metrics": metrics}


def test_finds_what_was_appended_in_the_order_of_the_plan(tmp_path):
    journal = Journal(tmp_path / "new" / "results.jsonl")
    for seed in (0, 1):
        journal.append(_record(seed, test=0.5))
    plan = [{"rate": 0.1, "seed": seed} for seed in (1, 2, 0)]
    found = Journal(journal.path).find(plan)
    assert [record["settings"]["seed"] for record in found] == [1, 0]


def test_torn_last_line_is_dropped_and_written_anew(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    journal.append(_record(0, test=0.5))
    journal.append(_record(1, test=0.6))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])

    journal = Journal(path)
    assert not journal.find([_record(1)["settings"]])
    journal.append(_record(1, test=0.6))
    assert path.read_bytes() == whole
