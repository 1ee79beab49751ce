"""Runs KerasTuner's own tests with `S2EOracle` in place of their oracles.

```
python -m benchmarks.keras_tuner_suite
```

clones KerasTuner at a fixed commit into a temporary folder, lets its tests
use the oracle, and runs those that do not depend on how values are chosen.
Needs git, and `pip install portpicker pytest`. Nothing of it is kept.
"""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl import app
from absl import flags

REPOSITORY = flags.DEFINE_string(
    "repository",
    "https://github.com/keras-team/keras-tuner",
    "Where to clone KerasTuner from: a URL or a folder.",
)
COMMIT = "417e5b5e8df924d428a3c64007f3ed47bd4c7026"
# Files, and which of their tests ("" for all). Left out are three tests that
# ask for good values of numbers which are drawn at random here, and one that
# asks for a search to end when its space is exhausted: schedules never are.
SUITES = {
    "engine/oracle_test.py": "",
    "tuners/bayesian_test.py": (
        "save_reload or save_before_result or hyperparameters_added "
        "or skip_failed_trials"
    ),
    "distribute/oracle_chief_test.py": "",
    "distribute/oracle_client_test.py": "base_tuner_distribution",
    "engine/base_tuner_test.py": "oracle_idle or chief_should_wait",
    "integration_tests/end_to_end_test.py": "",
}
# What stands in for what.
PUT = {
    r"oracle_module\.Oracle\)": "_Oracle)",
    r"bo_module\.BayesianOptimizationOracle\(": "_Oracle(",
    r"randomsearch\.RandomSearchOracle\b": "_Oracle",
    r"keras_tuner\.oracles\.RandomSearchOracle\b": "_Oracle",
    r"bo_module\.BayesianOptimization\)": "_Tuner)",
    r"keras_tuner\.tuners\.RandomSearch\(": "_Tuner(",
}
# Without the arguments that only theirs have; and with models that do ask for
# a schedule.
OURS = """
import keras_bilevel


class _Oracle(keras_bilevel.tuners.S2EOracle):
    def __init__(self, *args, num_initial_points=None, **kwargs):
        super().__init__(*args, **kwargs)


class _Tuner(keras_bilevel.tuners.S2ETuner):
    def __init__(self, build=None, alpha=None, beta=None, **kwargs):
        def with_schedule(hp):
            keras_bilevel.schedules.S2ESchedule.from_hyperparameters(hp, 10)
            return build(hp)

        super().__init__(build and with_schedule, **kwargs)


"""


def _put_ours(path):
    """Puts our oracle and tuner in place of theirs in a file of tests."""
    text, count = path.read_text(encoding="utf-8"), 0
    for pattern, name in PUT.items():
        text, found = re.subn(pattern, name, text)
        count += found
    if not count:
        raise RuntimeError(f"Expected an oracle in {path}. Received: none.")
    # After the imports, before the first function or class.
    first = re.search(r"^(def|class|@)", text, re.MULTILINE).start()
    path.write_text(text[:first] + OURS + text[first:], encoding="utf-8")


def _run(folder, name, tests):
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", name]
    command += ["-p", "no:cacheprovider", "--tb=short"]
    command += ["-k", tests] if tests else []
    here = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{here}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    print(f"{name}: {lines[-1] if lines else done.stderr}", flush=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode


def _main(argv):
    with tempfile.TemporaryDirectory() as folder:
        git = functools.partial(subprocess.run, cwd=folder, check=True)
        git(["git", "clone", "--quiet", REPOSITORY.value, "."])
        git(["git", "checkout", "--quiet", COMMIT])
        codes = []
        for name, tests in SUITES.items():
            _put_ours(pathlib.Path(folder) / "keras_tuner" / name)
            codes.append(_run(folder, f"keras_tuner/{name}", tests))
    sys.exit(max(codes))


if __name__ == "__main__":
    app.run(_main)
