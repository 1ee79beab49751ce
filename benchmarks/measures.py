"""What is measured of a training: all metrics of its record."""

import math

import numpy as np
from sklearn.metrics import roc_auc_score

import keras_bilevel as kb
from benchmarks import methods
from benchmarks import networks


def of_run(settings, task, curves, outcome):
    """Measures one training.

    Every run has `epochs`, `steps` and, where one network is left, the
    accuracies of `accuracies`. Beside them

    - on noisy labels alone: `suspect_auroc`, how well the score `history`
      finds wrong labels; `final_loss`, and `ran_away`, whether that is not
      below chance; `effective_shards` and `negative_weights`, means over all
      epochs.
    - with a clean target set: `auroc_<score>` and `noise_left_<score>` for
      each score. Scores are `loss`, the trained network's probability of the
      given label; `history`, its mean over training (its share of noise is
      plain `noise_left`); `alpha` and `cumulative` of SOSELETO; and
      `out_of_sample`, of networks trained without the example.
    - with noisy validation data: `test`, `validation` of the network that is
      left, and `suspect_auroc` of the method's own score, or of `history`.
    - with sample selection: `precision`, the share of right labels among
      those that were learnt from in the last epoch.

    Returns:
        Tuple of a dict of JSON values and of the score `history`, or `None`.
    """
    found, scores = {}, outcome.scores
    if curves.curves["epoch"]:  # Cross-validation has none.
        evaluated = "held_out" if settings["held_out"] else "test"
        found = accuracies(curves.curves, outcome.precision, evaluated)
    if outcome.network is not None:
        scores = {"history": curves.example_scores, **scores}
    if task.validation is not None:
        found |= _of_network(task, outcome.network, scores)
    elif "num_source" in settings:
        found |= _of_source_target(task, outcome, scores)
    elif "num_clean" not in settings:
        found["suspect_auroc"] = auroc(task.wrong, scores["history"])
        found |= _losses(outcome.log, task.num_classes)
        found |= _weights(outcome.log)
    found |= {"epochs": settings["epochs"], "steps": outcome.steps}
    return found, scores.get("history")


def accuracies(curves, precision, evaluated):
    """Returns accuracies after the last epoch, the best one, and the curves.

    `gap` is that of the paper: `train_given - test`. The best on the way,
    `best_test`, is what nobody can pick without clean data. `evaluated` names
    what the curve `test` was evaluated on.
    """
    curves = dict(curves)
    test = curves[evaluated] = curves.pop("test")
    best = int(np.argmax(test))
    if precision is not None:
        curves["precision"] = np.asarray(precision).tolist()
    last = {name: values[-1] for name, values in curves.items()}
    del last["epoch"]
    return {
        evaluated: last.pop(evaluated),
        **last,
        "gap": last["train_given"] - test[-1],
        f"best_{evaluated}": test[best],
        "best_epoch": curves["epoch"][best],
        "curves": {
            name: [round(value, 5) for value in values]
            for name, values in curves.items()
        },
    }


def _of_network(task, network, scores):
    """Returns what the network that is left does, and the method's score."""
    *_, score = scores.values()  # The method's own comes last.
    return {
        "test": networks.accuracy(network, *task.evaluation),
        "validation": networks.accuracy(network, *task.validation),
        "suspect_auroc": auroc(task.wrong, score),
    }


def _of_source_target(task, outcome, scores):
    found = {
        "noise_left" if name == "history" else f"noise_left_{name}": (
            _noise_left(task.wrong, score)
        )
        for name, score in scores.items()
    }
    if outcome.network is not None:
        loss = methods.given_probability(outcome.network, task)
        scores = {**scores, "loss": loss}
    for name, score in scores.items():
        found[f"auroc_{name}"] = auroc(task.wrong, score)
    return found


def auroc(wrong, scores):
    """Tells how well low scores find wrong labels.

    Returns `None` where there is nothing to find, or no finite score.
    """
    seen = np.isfinite(scores)
    if len(np.unique(wrong[seen])) < 2:
        return None
    return float(roc_auc_score(wrong[seen], -scores[seen]))


def _noise_left(wrong, scores):
    """Share of wrong labels in the better half, over that in all."""
    if not wrong.any():
        return None
    kept = kb.report.keep_mask(scores, keep=0.5)
    return float(wrong[kept].mean() / wrong.mean())


def _losses(log, num_classes):
    final = float(log["loss"][-1])
    # A network whose units died stays within rounding of chance.
    stable = final < 0.99 * math.log(num_classes)
    return {
        "final_loss": final if math.isfinite(final) else None,
        "ran_away": not stable,
    }


def _weights(log):
    names = ("effective_shards", "negative_weights")
    return {name: float(np.mean(log[name])) for name in names if name in log}
