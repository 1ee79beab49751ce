"""Which score finds wrong labels?

Every score that a training leaves behind, side by side: of plain training, of
Deep Bilevel Learning, of networks that have not seen the example, and of
SOSELETO, which needs a few clean examples. One network, one rate and as many
epochs for all; nothing is tuned.
"""

import keras
import numpy as np

import keras_bilevel as kb
from benchmarks import figures
from benchmarks import measures
from benchmarks import methods
from benchmarks import networks
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
_MNIST = {**_DIGITS, "dataset": "mnist", "num_train": 5_000, "epochs": 30}
_CIFAR = {
    "dataset": "cifar10",
    "network": "cnn",
    "num_train": 2_000,
    "epochs": 20,
    "learning_rate": 0.02,
}
_PAIR = {"noise_kind": "pair", "noise": 0.4}
CASES = [
    {**_DIGITS, "noise": 0.4},
    {**_DIGITS, **_PAIR},
    {**_MNIST, "noise": 0.4},
    {**_CIFAR, **plans.HUMAN},
    {**_CIFAR, "noise": 0.4},
    {**_CIFAR, **plans.HUMAN, "label_set": "aggre_label"},
]
PRESETS = {
    "quick": {"cases": CASES[:2], "seeds": [0]},
    "paper": {"cases": CASES, "seeds": [0, 1, 2]},
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
    return plans.grid(
        [plans.noisy(**case, method=None) for case in preset["cases"]],
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
        name: measures.auroc(task.wrong, score)
        for name, score in scores.items()
    }


def _plain(run):
    curves = kb.callbacks.LabelCurves(*run.arrays)
    return _of_training(run, run.network(), curves)


def _bilevel(run):
    model = networks.bilevel(run.network(), run.settings["num_shards"])
    return _of_training(run, model, kb.callbacks.ExampleHistory())


def _of_training(run, model, history):
    run.fit(run.compiled(model), *run.arrays, callbacks=[history])
    table = history.label_scores()
    # What was left over in each epoch was never seen: as good as chance.
    table = table.fillna(table.mean())
    found = {n: sign * table[n] for n, (_, sign) in DYNAMICS.items()}
    return {**found, "last": methods.given_probability(model, run.task)}


def _out_of_sample(run):
    probabilities = methods.out_of_sample(run, folds=5)
    return {"out_of_sample": methods.of_given(probabilities, run.task)}


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
    names = [words for _, _, words in _rows()]
    found = {}
    for case, runs in render.group(records, render.data_and_noise).items():
        by = render.group(runs, "method")
        found[case] = [
            render.values(by.get(training, []), metric)
            for training, metric, _ in _rows()
        ]
    table = [["trained by", "score", *found]]
    for words, *cells in zip(names, *found.values()):
        shown = [render.cell(cell) if cell else "-" for cell in cells]
        table.append([*words, *shown])
    figure = figures.dots(
        list(map(": ".join, names)), found, "AUROC for wrong labels"
    )
    figure.axes[0].axvline(0.5, color="gray", linewidth=1)
    notes = [
        render.NOTES[0],
        "AUROC for wrong labels: 1 is perfect, 0.5 is chance; below it, the "
        "score points the other way.",
        f"SOSELETO has {_COMMON['num_clean']} clean examples, all others none.",
    ]
    title = "Which score finds wrong labels"
    return render.Report(title, table, notes, figure)


EXPERIMENT = runner.Experiment("suspect_scores", PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
