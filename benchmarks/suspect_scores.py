"""Which score finds wrong labels?

Every score that a training leaves behind, side by side: of plain training, of
Deep Bilevel Learning, of networks that have not seen the example, and of
SOSELETO, which needs a few clean examples. One network, one rate and as many
epochs for all; nothing is tuned.
"""

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import keras_bilevel as kb
from benchmarks import figures
from benchmarks import methods
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from benchmarks import tasks
from benchmarks.training import Trainer

_COMMON = {
    "batch_size": 128,
    "source_size": 128,
    "target_size": 32,
    "num_clean": 100,  # SOSELETO's. No other method sees them.
    "alpha_lr": None,
    "num_shards": 16,
    "num_validation_shards": 1,
}
_DIGITS = {"dataset": "digits", "epochs": 60, "learning_rate": 0.02}
_MNIST = {
    **_DIGITS,
    "dataset": "mnist",
    "num_train": 5_000,
    "epochs": 30,
}
_CIFAR = {
    "dataset": "cifar10",
    "network": "cnn",
    "num_train": 2_000,
    "epochs": 20,
    "learning_rate": 0.02,
}
_PAIR = {"noise_kind": "pair", "noise": 0.4}
CASES = {
    "digits": [{**_DIGITS, "noise": 0.4}, {**_DIGITS, **_PAIR}],
    "mnist": [{**_MNIST, "noise": 0.4}],
    "cifar10": [
        {**_CIFAR, **plans.HUMAN},
        {**_CIFAR, "noise": 0.4},
        {**_CIFAR, **plans.HUMAN, "label_set": "aggre_label"},
    ],
}
PRESETS = {
    "quick": {"data": ["digits"], "seeds": [0]},
    "paper": {"data": list(CASES), "seeds": [0, 1, 2]},
}
# Of `label_scores`: in words, and 1 where a low value is suspect.
DYNAMICS = {
    "score": ("probability of the given label, mean", 1),
    "margin": ("margin, mean (AUM)", 1),
    "correctness": ("correctness", 1),
    "variability": ("variability", 1),
    "forgetting": ("forgetting events", -1),
}
LAST = "probability of the given label, last epoch"


def _plan(preset, records):
    cases = [case for name in preset["data"] for case in CASES[name]]
    return plans.grid(
        [plans.noisy(**{**case, **{"method": None}}) for case in cases],
        [_COMMON],
        plans.each("seed", preset["seeds"]),
        plans.each("method", TRAININGS),
    )


def run(settings, data_dir=None, verbose=0):
    """Trains once and returns the AUROC of each score."""
    keras.utils.set_random_seed(settings["seed"])
    task = tasks.make(settings, data_dir)
    trainer = Trainer(settings, task, verbose=verbose)
    scores = TRAININGS[settings["method"]](trainer)
    return {
        name: float(roc_auc_score(~task.wrong, score))
        for name, score in scores.items()
    }


def _plain(run):
    curves = kb.callbacks.LabelCurves(*run.arrays)
    network = run.compiled(run.network())
    run.fit(network, *run.arrays, callbacks=[curves])
    return _of_training(run, network, curves)


def _bilevel(run):
    weighting = kb.weighting.DeepBilevel(run.settings["num_shards"])
    network = run.network()
    model = run.compiled(kb.BilevelModel(network, weighting))
    history = kb.callbacks.ExampleHistory()
    run.fit(model, *run.arrays, callbacks=[history])
    return _of_training(run, network, history)


def _of_training(run, network, history):
    table = history.label_scores()
    # What was left over in each epoch was never seen: as good as chance.
    table = table.fillna(table.mean())
    found = {n: sign * table[n] for n, (_, sign) in DYNAMICS.items()}
    return {**found, "last": methods.given_probability(network, run.task)}


def _out_of_sample(run):
    probabilities = kb.report.out_of_sample(
        lambda: run.compiled(run.network()),
        *run.arrays,
        seed=run.seed,
        verbose=0,
        epochs=run.settings["epochs"],
        batch_size=run.batch_size,
    )
    given = probabilities[np.arange(len(run.task.x)), run.task.y_given]
    return {"out_of_sample": given}


def _soseleto(run):
    weighting = kb.weighting.Soseleto(len(run.task.x))
    model = run.compiled(kb.BilevelModel(run.network(), weighting))
    run.fit(model, methods.pairs(run))
    scores = np.nan_to_num(weighting.example_scores)
    return {"alignment": scores}


TRAININGS = {
    "plain": _plain,
    "bilevel": _bilevel,
    "out_of_sample": _out_of_sample,
    "soseleto": _soseleto,
}


def _rows():
    """Yields the training, the metric and its words, for each row."""
    for training, name in (("plain", "plain"), ("bilevel", "Deep Bilevel")):
        for metric, (words, _) in DYNAMICS.items():
            yield training, metric, (name, words)
        yield training, "last", (name, LAST)
    words = "probability of the given label, five-fold"
    yield "out_of_sample", "out_of_sample", ("others", words)
    yield "soseleto", "alignment", ("SOSELETO", "alignment, summed")


def _report(records):
    cases = render.group(
        records, lambda s: f"{s['dataset']}, {render.noise(s)}"
    )
    found = {
        case: render.group(runs, lambda s: s["method"])
        for case, runs in cases.items()
    }

    def values(case, training, metric):
        return render.values(found[case].get(training, []), metric)

    table = [["trained by", "score", *cases]]
    for training, metric, words in _rows():
        cells = [values(case, training, metric) for case in cases]
        shown = [render.cell(cell) if cell else "-" for cell in cells]
        table.append([*words, *shown])
    notes = [
        render.NOTES[0],
        "AUROC for wrong labels: 1 is perfect, 0.5 is chance; below it, the "
        "score points the other way.",
        f"SOSELETO has {_COMMON['num_clean']} clean examples, all others none.",
    ]
    return render.Report(
        "Which score finds wrong labels", table, notes, _figure(cases, values)
    )


def _figure(cases, values):
    rows = list(_rows())
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for number, case in enumerate(cases):
        means = [
            np.mean(values(case, training, metric) or [np.nan])
            for training, metric, _ in rows
        ]
        color = figures.COLORS[number % len(figures.COLORS)]
        axes.plot(means, places, "o", label=case, color=color)
    axes.axvline(0.5, color="gray", linewidth=1)
    axes.set_yticks(places, [": ".join(words) for _, _, words in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set(xlabel="AUROC for wrong labels")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


EXPERIMENT = runner.Experiment("suspect_scores", PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(lambda: EXPERIMENT)
