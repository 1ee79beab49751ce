"""The first thing that a newcomer runs."""

import os
import subprocess
import sys
from pathlib import Path


def test_quickstart_runs_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks.quickstart"]
    flags = ["--epochs=2", "--num_shards=4", "--threads=1", f"--out={tmp_path}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, *flags],
        cwd=root,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Deep Bilevel, 4 shards of 4" in done.stdout
    assert str(tmp_path / "quickstart.png") in done.stdout
    assert (tmp_path / "quickstart.png").exists()
    suspects = tmp_path / "suspects_digits_bilevel_seed0.csv"
    lines = suspects.read_text().splitlines()
    assert lines[0] == "id,given,true,given_probability"
    assert len(lines) == 1 + 1437
