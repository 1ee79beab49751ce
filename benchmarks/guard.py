"""Do steps still cost what the committed records say? A report in two minutes.

Ratios to plain Keras are measured again, with few pairs, and shown beside those
of `benchmarks/results`. Another machine has other ratios, and a busy one any.
So nothing fails: a row that has moved is worth a look at the whole experiment.
"""

import json
from pathlib import Path

from benchmarks import render
from benchmarks import speed
from benchmarks import speed_examples

RESULTS = Path(__file__).parent / "results"
PAIRS = 5


def main():
    rows = [["what", "committed", "now", "change"]]
    for module, kind in (speed, "step"), (speed_examples, "fit"):
        experiment = module.EXPERIMENT
        for record in records_of(experiment.name, kind):
            settings = {**record["settings"], "pairs": PAIRS}
            found = experiment.run(settings, data_dir=None, verbose=0)
            name = f"{experiment.name}: {module.describe(settings)}"
            ratios = (r["cpu_ratio"] for r in (record["metrics"], found))
            rows.append(row(name, *ratios))
            print(*rows[-1], sep="  ", flush=True)
    print(f"\n{render.as_text(rows)}")


def records_of(name, kind):
    """Returns the committed records of one kind of measurement."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = map(json.loads, lines)
    return [r for r in records if r["settings"]["kind"] == kind]


def row(name, committed, now):
    change = f"{now / committed - 1.0:+.0%}"
    return [name, f"{committed:.2f}", f"{now:.2f}", change]


if __name__ == "__main__":
    main()
