"""Runs any experiment: flags, presets, progress, results, resumption."""

import dataclasses
import numbers
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
from absl import app
from absl import flags
from absl import logging

from benchmarks import render
from benchmarks.journal import Journal

DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with prepared TensorFlow Datasets. Without it they are downloaded.",
)
OUT = flags.DEFINE_string(
    "out", None, "Folder for the results. Defaults to out/<experiment>."
)
PRESET = flags.DEFINE_enum(
    "preset", "quick", ["quick", "paper"], "How much to run; see README.md."
)
SEEDS = flags.DEFINE_list(
    "seeds", None, "How many seeds (3), or which ones (0,1,4; a single: 4,)."
)
VERBOSE = flags.DEFINE_enum(
    "verbose", "0", ["0", "1", "2"], "That of Keras' `fit`."
)
THREADS = flags.DEFINE_integer(
    "threads", None, "Limit for TensorFlow's threads. Defaults to all cores."
)
PART = flags.DEFINE_string(
    "part",
    "1/1",
    "2/3 makes every third run from the second on: processes that share an "
    "experiment. Start once more without it to get the report.",
)
# Whose versions are kept, where a run has imported them.
LIBRARIES = ("keras_bilevel", "keras", "tensorflow", "jax", "numpy")
SHOWN = 4  # Metrics of a run that progress shows: the first of its numbers.


class TimeIsUp(Exception):
    """Ends an experiment that has a deadline."""


def _train(settings, data_dir, verbose):
    # Needs TensorFlow, which not all experiments have.
    from benchmarks import training

    return training.run(settings, data_dir, verbose)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to run and what to make of it."""

    name: str  # Of the files with the results.
    presets: dict  # Dicts; `seeds` is what `--seeds` sets.
    # Functions `(preset, records) -> list of settings`. A stage begins when all
    # runs of the one before it are done, and gets all records so far.
    stages: list
    report: Callable  # `records -> render.Report`
    # `(settings, data_dir, verbose) -> metrics`, a dict of JSON values. It may
    # raise `TimeIsUp`: then what is done is reported.
    run: Callable = _train


def main(experiment):
    """Runs an `Experiment`, or the one that a function returns.

    The function is called when the flags are parsed.
    """
    app.run(lambda argv: _main(experiment))


def folder(name):
    """Returns the folder for the results of an experiment."""
    return Path(OUT.value or Path("out") / name)


def _main(experiment):
    if callable(experiment):
        experiment = experiment()
    # TensorFlow and its data sets are talkative.
    logging.set_verbosity(logging.ERROR)
    if THREADS.value:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS.value)
    preset = dict(experiment.presets[PRESET.value])
    if SEEDS.value:
        preset["seeds"] = parse_seeds(SEEDS.value)
    out = folder(experiment.name)
    records = execute(
        experiment,
        preset,
        Journal(out / f"{experiment.name}.jsonl"),
        lambda settings: experiment.run(
            settings, data_dir=DATA_DIR.value, verbose=int(VERBOSE.value)
        ),
        part=parse_part(PART.value),
    )
    if records:
        render.write(experiment.report(records), out, experiment.name)


def parse_seeds(words):
    """Returns the seeds of `["3"]` (0, 1, 2), `["0", "4"]`, `["4", ""]`."""
    if len(words) == 1:
        return list(range(int(words[0])))
    return [int(word) for word in words if word]


def parse_part(text):
    """Returns `(position, count)` of "2/3", counted from 0: `(1, 3)`."""
    position, count = (int(word) for word in text.split("/"))
    if not 1 <= position <= count:
        raise ValueError(f"Expected --part=i/n, i in [1, n]. Received: {text}")
    return position - 1, count


def execute(experiment, preset, journal, run, part=(0, 1)):
    """Makes all runs of a preset that are not in the journal yet.

    Args:
        experiment: An `Experiment`.
        preset: One of its presets.
        journal: A `Journal`.
        run: Function `settings -> metrics`.
        part: Tuple `(position, count)`: make every `count`-th run only.

    Returns:
        The records of all runs; no record as long as some are missing, but
        those that are done where a run says that time is up.
    """
    records = []
    for stage in experiment.stages:
        plan = stage(preset, records)
        mine = plan[part[0] :: part[1]]
        for position, settings in enumerate(mine, start=1):
            progress = f"[{position}/{len(mine)}]"
            print(progress, label(settings, plan), flush=True)
            if journal.find([settings]):
                print(f"    already in {journal.path}", flush=True)
            else:
                try:
                    _run_once(experiment, settings, journal, run)
                except TimeIsUp as error:
                    print(error)
                    return records + journal.find(plan)
        found = journal.find(plan)
        records += found
        if len(found) < len(plan):
            print(f"{len(plan) - len(found)} runs of other parts to come.")
            return []
    return records


def label(settings, plan):
    """Tells a run by the settings in which the runs of its plan differ."""
    return ", ".join(
        f"{name} {value}"
        for name, value in settings.items()
        if value is not None and any(s.get(name) != value for s in plan)
    )


def _run_once(experiment, settings, journal, run):
    start = time.perf_counter()
    metrics = run(settings)
    seconds = round(time.perf_counter() - start, 1)
    found = {name: sys.modules.get(name) for name in LIBRARIES}
    versions = {name: m.__version__ for name, m in found.items() if m}
    journal.append(
        {
            "experiment": experiment.name,
            "seed": settings.get("seed"),
            "settings": settings,
            "metrics": metrics,
            "versions": {**versions, "python": platform.python_version()},
            "seconds": seconds,
        }
    )
    found = [
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if isinstance(value, numbers.Number)
    ]
    print(f"    {', '.join(found[:SHOWN])} in {seconds:.0f} s", flush=True)
    keras.backend.clear_session()
