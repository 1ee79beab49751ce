"""What does a searched schedule buy, and what do the methods without one?

`--compare=methods`: S2E beside all methods of its paper, on MNIST;
`--compare=images`: on CIFAR-10, its human labels, and CIFAR-100. A schedule is
searched for once per case; test data are read once, by the final trainings.
`--compare=searches`: spaces and algorithms at equal numbers of trials.
"""

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks import figures
from benchmarks import methods
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import schedule_search
from benchmarks import training
from keras_bilevel.tuners.stopping import Stopping

CHOSEN = flags.DEFINE_enum(
    "compare", "methods", ["methods", "images", "searches"], "What to compare."
)

METHODS = {
    "standard": "Standard",
    "decoupling": "Decoupling",
    "f_correction": "F-correction",
    "self_paced": "MentorNet (self-paced)",
    "co_teaching": "Co-teaching",
    "co_teaching_plus": "Co-teaching+",
    "reweight": "Reweight",
}
WITH_SCHEDULE = ("self_paced", "co_teaching", "co_teaching_plus")
SYMMETRIC = {"noise_kind": "symmetric", "noise": 0.5}
MILD = {"noise_kind": "symmetric", "noise": 0.2}
PAIR = {"noise_kind": "pair", "noise": 0.45}
# The share of wrong ones in CIFAR-10N's worst labels, from its authors.
NOISE_OF_WORST = 0.4
CIFAR_10 = {"dataset": "cifar10", "network": "small_cnn", "inputs": [-1, 1]}
CIFAR_100 = {**CIFAR_10, "dataset": "cifar100", "num_train": 8_000}
LONG = {"epochs": 200, "num_train": 40_000, "num_clean": 5_000, "every": 10}
# Searched on the data of a seed of its own, for all final trainings.
SEARCH_SEED = 100
SEARCHES = [
    {"space": "S2E", "algorithm": "S2E"},
    # At equal cost: Co-teaching's own three numbers.
    {"space": "Co-teaching", "algorithm": "random"},
]
ALL_SEARCHES = [
    {"space": "S2E", "algorithm": name} for name in schedule_search.ALGORITHMS
] + [
    {"space": name, "algorithm": "random"}
    for name in schedule_search.SPACES
    if name != "S2E"
]
_ON_MNIST = {
    "cases": [MILD, SYMMETRIC, PAIR],
    "searches": SEARCHES,
    "trials": 24,
}
PRESETS = {
    "methods": {
        "quick": {**_ON_MNIST, "seeds": [0]},
        "paper": {**_ON_MNIST, "seeds": [0, 1, 2]},
    },
    "images": {
        "quick": {
            "cases": [{**CIFAR_10, **plans.HUMAN}, {**CIFAR_100, **SYMMETRIC}],
            "searches": SEARCHES[:1],
            "trials": 8,
            "seeds": [0],
        },
        "paper": {
            "cases": [
                *plans.grid([CIFAR_10, CIFAR_100], [MILD, SYMMETRIC, PAIR]),
                *plans.grid([{**CIFAR_10, **LONG}], [PAIR, plans.HUMAN]),
            ],
            "searches": SEARCHES,
            "trials": 24,
            "seeds": [0, 1, 2],
        },
    },
    "searches": {
        "quick": {"cases": [PAIR], "trials": 12, "seeds": [SEARCH_SEED]},
        "paper": {
            "cases": [SYMMETRIC, PAIR],
            "trials": 24,
            "seeds": [SEARCH_SEED],
        },
    },
}


def _search_plan(preset, records):
    common = {"trials": preset["trials"], "seed": SEARCH_SEED}
    cases, searches = preset["cases"], preset["searches"]
    return plans.runs(plans.search, [common], cases, searches)


def _final_plan(preset, records):
    seeds = plans.each("seed", preset["seeds"])
    return [
        plans.selection(**case, **change)
        for case in plans.grid(seeds, preset["cases"])
        for change in _methods(plans.selection(**case), records)
    ]


def _methods(settings, records):
    """The methods, and Co-teaching with each schedule that was found."""
    by_hand = _by_hand(settings)
    chosen = [
        (method, by_hand if method in WITH_SCHEDULE else None)
        for method in METHODS
    ]
    searches = render.group(records, _case).get(_case(settings), [])
    for schedule in render.values(searches, "schedule"):
        chosen.append(("co_teaching", schedule))
    return [{"method": name, "schedule": found} for name, found in chosen]


def _by_hand(settings):
    """The schedule of Co-teaching's authors, who know the noise rate."""
    noise = settings["noise"] or NOISE_OF_WORST
    return plans.co_teaching_schedule(noise, settings["epochs"])


def _searches_plan(preset, records):
    return plans.runs(
        plans.search,
        [{"trials": preset["trials"]}],
        plans.each("seed", preset["seeds"]),
        preset["cases"],
        ALL_SEARCHES,
    )


def _run(settings, data_dir, verbose):
    run = schedule_search.run if _is_search(settings) else training.run
    return run(settings, data_dir, verbose)


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


def _method(settings):
    """Names a method, and whose schedule it has where that is not its own."""
    name, schedule = METHODS[settings["method"]], settings["schedule"]
    if settings["method"] != "co_teaching":
        return name
    if schedule["name"] == "S2ESchedule":
        return "S2E"
    return name if schedule == _by_hand(settings) else f"{name}, tuned"


def _methods_report(records):
    groups = render.group(records, _is_search)
    searches, finals = groups.get(True, []), groups[False]
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
        chosen = render.group(members, _method)
        for i, (method, runs) in enumerate(chosen.items()):
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
    curves = render.values(runs, "curves")
    test = np.mean([c["test"] for c in curves], axis=0)
    row[0].plot(curves[0]["epoch"], test, label=method, color=color)
    if "precision" in curves[0]:
        precision = np.mean([c["precision"] for c in curves], axis=0)
        row[1].plot(1 + np.arange(len(precision)), precision, color=color)
    schedule = methods.schedule_of(runs[0]["settings"])
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
    rows = {"labels": _case, "space": "space", "algorithm": "algorithm"}
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
        _searches_figure(records),
    )


def _searches_figure(records):
    """A panel for each case: the best value after so many trials."""
    figure, panels = figures.stack(records, _case, 8, 5)
    for axes, name, members in panels:
        for color, record in zip(colormaps["tab20"].colors, members):
            best = record["metrics"]["best_so_far"]
            label = _search_name(record["settings"])
            axes.plot(1 + np.arange(len(best)), best, label=label, color=color)
        axes.set(title=name, xlabel="trial", ylabel="best validation accuracy")
        axes.legend(fontsize=7)
    return figure


_STAGES = {
    "methods": ([_search_plan, _final_plan], _methods_report),
    "images": ([_search_plan, _final_plan], _methods_report),
    "searches": ([_searches_plan], _searches_report),
}
EXPERIMENTS = {
    name: runner.Experiment(f"s2e_{name}", PRESETS[name], stages, report, _run)
    for name, (stages, report) in _STAGES.items()
}

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENTS[CHOSEN.value])
