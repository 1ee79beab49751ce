"""The example for several workers runs as it stands in the guide."""

from tests.distribute import processes


def test_example_for_several_workers_runs(tmp_path):
    guide = (processes.ROOT / "docs" / "distribute.md").read_text()
    _, _, rest = guide.partition("Save this as `train.py`:\n\n```python\n")
    example, _, _ = rest.partition("```\n")
    script = tmp_path / "train.py"
    script.write_text(example)
    started = processes.start(tmp_path, [], workers=2, script=script)
    codes, logs = processes.finish(started, tmp_path)
    assert codes == [0, 0], logs
    chief, other = (
        (tmp_path / f"log_{i}.txt").read_text().splitlines() for i in range(2)
    )
    assert chief[-1] == other[-1]
    loss, accuracy = map(float, chief[-1].strip("[]").split(","))
    assert accuracy > 0.8
