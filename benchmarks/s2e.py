"""What does a searched schedule buy, and what do the methods without one?

`--compare=methods`: S2E beside all methods of its paper, on MNIST;
`--compare=images`: on CIFAR-10, its human labels, and CIFAR-100. A schedule is
searched for once per case; test data are read once, by the final trainings.
`--compare=searches`: spaces and algorithms at equal numbers of trials.
"""

import itertools

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks import render
from benchmarks import runner
from benchmarks import schedule_search
from benchmarks import selection
from keras_bilevel.tuners.stopping import Stopping

CHOSEN = flags.DEFINE_enum(
    "compare",
    "methods",
    ["methods", "images", "searches"],
    "What to compare.",
)

SYMMETRIC = {"noise_kind": "symmetric", "noise": 0.5}
MILD = {"noise_kind": "symmetric", "noise": 0.2}
PAIR = {"noise_kind": "pair", "noise": 0.45}
HUMAN = {"noise_kind": "human", "noise": None, "label_set": "worse_label"}
# The noise rate of CIFAR-10N's worst labels, as its authors report it.
HUMAN_NOISE = 0.4
CIFAR_10 = {"dataset": "cifar10", "network": "small_cnn", "inputs": [-1, 1]}
CIFAR_100 = {**CIFAR_10, "dataset": "cifar100", "num_train": 8_000}
LONG = {"epochs": 200, "num_train": 40_000, "num_clean": 5_000, "every": 10}
# Searched on the data of a seed of its own, for all final trainings.
SEARCH_SEED = 100
SEARCHES = (
    {"space": "S2E", "algorithm": "S2E"},
    # At equal cost: Co-teaching's own three numbers.
    {"space": "Co-teaching", "algorithm": "random"},
)
PRESETS = {
    "methods": {
        name: {
            "cases": [MILD, SYMMETRIC, PAIR],
            "searches": SEARCHES,
            "trials": 24,
            "seeds": seeds,
        }
        for name, seeds in {"quick": [0], "paper": [0, 1, 2]}.items()
    },
    "images": {
        "quick": {
            "cases": [{**CIFAR_10, **HUMAN}, {**CIFAR_100, **SYMMETRIC}],
            "searches": SEARCHES[:1],
            "trials": 8,
            "seeds": [0],
        },
        "paper": {
            "cases": [
                {**data, **noise}
                for data in (CIFAR_10, CIFAR_100)
                for noise in (MILD, SYMMETRIC, PAIR)
            ]
            + [{**CIFAR_10, **LONG, **noise} for noise in (PAIR, HUMAN)],
            "searches": SEARCHES,
            "trials": 24,
            "seeds": [0, 1, 2],
        },
    },
    "searches": {
        "quick": {"cases": [PAIR], "trials": 12, "seeds": [100]},
        "paper": {"cases": [SYMMETRIC, PAIR], "trials": 24, "seeds": [100]},
    },
}
ALL_SEARCHES = [
    {"space": "S2E", "algorithm": name} for name in schedule_search.ALGORITHMS
] + [
    {"space": name, "algorithm": "random"}
    for name in schedule_search.SPACES
    if name != "S2E"
]
WITH_SCHEDULE = ("self_paced", "co_teaching", "co_teaching_plus")


def _search(case, trials, search, seed):
    common = selection.settings(**case, method="co_teaching", seed=seed)
    return {**common, **search, "trials": trials}


def _search_plan(preset, records):
    return [
        _search(case, preset["trials"], search, SEARCH_SEED)
        for case, search in itertools.product(
            preset["cases"], preset["searches"]
        )
    ]


def _final_plan(preset, records):
    return [
        selection.settings(**case, **change, seed=seed)
        for seed, case in itertools.product(preset["seeds"], preset["cases"])
        for change in _methods(case, records)
    ]


def _methods(case, records):
    """The methods, and Co-teaching with each schedule that was found."""
    settings = selection.settings(**case)
    noise = settings["noise"] or HUMAN_NOISE
    by_hand = selection.co_teaching_schedule(noise, settings["epochs"])
    methods = [
        {
            "method": method,
            "schedule": by_hand if method in WITH_SCHEDULE else None,
        }
        for method in selection.METHODS
    ]
    found = [
        record["metrics"]["schedule"]
        for record in records
        if _case(record["settings"]) == _case(settings)
    ]
    return methods + [
        {"method": "co_teaching", "schedule": schedule} for schedule in found
    ]


def _searches_plan(preset, records):
    return [
        _search(case, preset["trials"], search, seed)
        for seed, case, search in itertools.product(
            preset["seeds"], preset["cases"], ALL_SEARCHES
        )
    ]


def _run(settings, data_dir, verbose):
    if _is_search(settings):
        return schedule_search.run(settings, data_dir, verbose)
    return selection.run(settings, data_dir, verbose)


def _is_search(settings):
    return "trials" in settings


def _case(settings):
    name = settings["label_set"] or f"{settings['noise']:.0%}"
    return (
        f"{settings['dataset']}, {settings['noise_kind']} {name}, "
        f"{settings['num_train']:,} images"
    )


def _search_name(settings):
    return f"{settings['space']} space, {settings['algorithm']}"


def _describe(settings):
    if _is_search(settings):
        name = f"{settings['trials']} trials, {_search_name(settings)}"
    else:
        name = _method(settings)
    return f"{_case(settings)}, {name}, seed {settings['seed']}"


def _method(settings):
    """Names a method, and whose schedule it has where that is not its own."""
    name = selection.METHODS[settings["method"]]
    schedule = settings["schedule"]
    if settings["method"] != "co_teaching":
        return name
    if schedule["name"] == "S2ESchedule":
        return "S2E"
    epochs = settings["epochs"]
    noise = settings["noise"] or HUMAN_NOISE
    is_by_hand = schedule == selection.co_teaching_schedule(noise, epochs)
    return name if is_by_hand else f"{name}, tuned"


def _methods_report(records):
    searches = [r for r in records if _is_search(r["settings"])]
    finals = [r for r in records if not _is_search(r["settings"])]
    columns = {
        "test": "test",
        "best epoch's test": "best_test",
        "label precision": "precision",
        "train (given)": "train_given",
    }
    notes = [
        "Test: clean accuracy after the last epoch. Label precision: share of "
        "right labels among those learned from in the last epoch.",
        "S2E: Co-teaching with the schedule that S2ETuner found. Tuned: with "
        "Co-teaching's own tau, c and t_k, found by random search with as many "
        "trials. Reweight trains on the clean validation set as well.",
        *map(_search_note, searches),
        render.NOTES[0],
    ]
    return render.Report(
        "Sample selection and searched schedules",
        render.table(finals, {"labels": _case, "method": _method}, columns),
        notes,
        _methods_figure(finals),
    )


def _search_note(record):
    settings, metrics = record["settings"], record["metrics"]
    return (
        f"Search, {_case(settings)}, {_search_name(settings)}: "
        f"{settings['trials']} trials, {metrics['trial_epochs']} epochs, "
        f"{metrics['search_seconds']:.0f} s; best validation accuracy "
        f"{metrics['best']:.3f}."
    )


def _methods_figure(records):
    """A row for each case: test accuracy, label precision and R(t)."""
    cases = render.group(records, _case)
    figure = Figure(figsize=(12, 3.2 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), 3, squeeze=False)
    for row, (name, members) in zip(panels, cases.items()):
        for i, (method, runs) in enumerate(
            render.group(members, _method).items()
        ):
            _draw(row, method, runs, f"C{i}")
        row[0].set(ylabel="test accuracy")
        row[1].set(ylabel="label precision")
        row[2].set(ylabel="share kept, R(t)")
        row[0].legend(fontsize=7)
        for axes in row:
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("epoch")
    return figure


def _draw(row, method, runs, color):
    curves = [run["metrics"]["curves"] for run in runs]
    test = np.mean([c["test"] for c in curves], axis=0)
    row[0].plot(curves[0]["epoch"], test, label=method, color=color)
    if "precision" in curves[0]:
        precision = np.mean([c["precision"] for c in curves], axis=0)
        row[1].plot(1 + np.arange(len(precision)), precision, color=color)
    schedule = selection.schedule_of(runs[0]["settings"])
    if schedule is not None:
        epochs = np.arange(runs[0]["settings"]["epochs"])
        row[2].plot(epochs, schedule(epochs), color=color)


def _with_stopping(curves, settings):
    """What a search's trials come to if the hopeless ones are stopped."""
    stopping = Stopping(0.5, settings["epochs"] // 4, least=4)
    values, epochs = [], 0
    for i, curve in enumerate(curves):
        for epoch, value in enumerate(curve):
            if stopping.is_hopeless(str(i), epoch, -value):
                break
        values.append(value)
        epochs += epoch + 1
    return {"stopping_best": max(values), "stopping_epochs": epochs}


def _searches_report(records):
    rows = {
        "labels": _case,
        "space": lambda s: s["space"],
        "algorithm": lambda s: s["algorithm"],
    }
    for record in records:
        metrics = record["metrics"]
        metrics["trials"] = len(metrics["values"])
        metrics |= _with_stopping(metrics["curves"], record["settings"])
    columns = {
        "trials": "trials",
        "best validation accuracy": "best",
        "epochs trained": "trial_epochs",
        "best, stopping": "stopping_best",
        "epochs, stopping": "stopping_epochs",
    }
    cases = render.group(records, _case)
    colors = colormaps["tab20"]
    figure = Figure(figsize=(8, 5 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, (name, members) in zip(panels, cases.items()):
        for color, record in enumerate(members):
            best = record["metrics"]["best_so_far"]
            axes.plot(
                1 + np.arange(len(best)),
                best,
                label=_search_name(record["settings"]),
                color=colors(color),
            )
        axes.set(title=name, xlabel="trial", ylabel="best validation accuracy")
        axes.legend(fontsize=7)
    notes = [
        "Each trial trains by Co-teaching. One search each: differences of a "
        "point are within what another seed changes; benchmarks/s2e_search.py "
        "compares algorithms over many seeds on a synthetic objective.",
        "candidates=1 for Newton as in the paper, cubic, natural and plain "
        "gradient; S2E is the default of `S2ETuner`. The hopeless stopped: "
        "stop_below=0.5. Hyperband has one round of brackets, which sets its "
        "number of trials.",
        "Stopping: what stop_below=0.5 would have left of the same trials.",
    ]
    return render.Report(
        "Spaces and search algorithms at equal numbers of trials",
        render.table(records, rows, columns),
        notes,
        figure,
    )


EXPERIMENTS = {
    name: runner.Experiment(
        f"s2e_{name}",
        PRESETS[name],
        stages=(_search_plan, _final_plan),
        report=_methods_report,
        run=_run,
        describe=_describe,
        headline=("test", "precision", "best"),
    )
    for name in ("methods", "images")
} | {
    "searches": runner.Experiment(
        "s2e_searches",
        PRESETS["searches"],
        stages=(_searches_plan,),
        report=_searches_report,
        run=_run,
        describe=_describe,
        headline=("best",),
    ),
}

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENTS[CHOSEN.value])
