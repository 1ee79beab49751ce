"""How good a schedule is found after how many trials?

S2E's four updates, as in the paper and with the surrogate, against random
draws and KerasTuner's Bayesian optimization, on two objectives that cost no
training. Nothing was chosen on the split "held_out": the default's settings
were on 20 other problems of the two kinds. "development" is for what is to be
chosen next.
"""

import tempfile

import keras_tuner
import numpy as np
from matplotlib.figure import Figure

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from keras_bilevel.schedules import S2ESchedule
from keras_bilevel.tuners.curves import curves
from keras_bilevel.tuners.distribution import Distribution
from keras_bilevel.tuners.search import Result
from keras_bilevel.tuners.search import Search
from keras_bilevel.tuners.updates import STEPS

EPOCHS = 30
NOISE = 0.005  # Standard deviation of what a trial sees.
AT = (24, 60, 200)
EVEN = "theta stays, 256 candidates"
BAYESIAN = "BayesianOptimization"
# KerasTuner's needs half a minute or more for the 200 trials of one search;
# and what the surrogate does on its own shows earlier.
MOST_TRIALS = {BAYESIAN: 60, EVEN: 60}
DEFAULT = "newton, 256 candidates"
METHODS = (
    "random",
    BAYESIAN,
    *(f"{update}, paper" for update in STEPS),
    EVEN,
    *(f"{update}, 256 candidates" for update in STEPS),
)
PRESETS = {
    "quick": {"split": "development", "seeds": list(range(2)), "trials": 24},
    "paper": {"split": "held_out", "seeds": list(range(20)), "trials": 200},
}
KINDS = {
    "schedule": "distance to a wanted schedule",
    "training": "test error of a toy training",
}


def _plan(preset, records):
    settings = plans.grid(
        [{"split": preset["split"], "noise": NOISE}],
        plans.each("kind", KINDS),
        plans.each("seed", preset["seeds"]),
        plans.each("method", METHODS),
    )
    trials = preset["trials"]
    return [
        {**s, "trials": min(trials, MOST_TRIALS.get(s["method"], trials))}
        for s in settings
    ]


# The problems.


def wanted_schedule(rng):
    """A schedule of the space, or one that only comes near it."""
    if rng.random() < 0.5:
        x = Distribution(4, 16).sample(np.ones(36), rng, 1)
        return curves(x, EPOCHS)[0]
    tau, t_k = rng.uniform(0.1, 0.7), rng.uniform(3, 25)
    power = rng.choice([0.5, 1.0, 2.0])
    return 1 - tau * np.minimum((np.arange(EPOCHS) / t_k) ** power, 1)


def schedule_objective(rng):
    """The root mean square distance to a wanted schedule."""
    wanted = wanted_schedule(rng)
    return lambda share: float(np.sqrt(np.mean((share - wanted) ** 2)))


def training_objective(rng):
    """The test error of a network that learns, and then memorizes.

    A share p of the labels is wrong. Small losses tell right from wrong
    labels the better, the more was learnt and the less memorized.
    """
    p, learning = rng.uniform(0.15, 0.65), rng.uniform(0.05, 0.4)
    memorizing = rng.uniform(0.03, 0.3)

    def error(share):
        learnt = memorized = 0.0
        for kept in share:
            told = learnt * (1 - memorized)
            surplus = max(kept - (1 - p), 0)
            wrong = surplus + (1 - told) * p * min(kept, 1 - p)
            learnt += learning * (kept - wrong) * (1 - learnt)
            memorized += memorizing * wrong * (1 - memorized)
        return 1 - learnt * (1 - memorized)

    return error


OBJECTIVES = {"schedule": schedule_objective, "training": training_objective}


def objective(settings):
    """The function of R(t) that a run minimizes."""
    split = ("development", "held_out").index(settings["split"])
    rng = np.random.default_rng([settings["seed"], split])
    return OBJECTIVES[settings["kind"]](rng)


# The searches.


def run(settings, data_dir=None, verbose=0):
    """Searches once.

    Returns:
        Dict of metrics: `best`, one number a trial, the objective without
        noise of the trial that did best so far with noise; and the last of
        them, `final`.
    """
    function = objective(settings)
    noise = np.random.default_rng([settings["seed"], 2])
    true, seen, best = [], [], []

    def evaluate(x):
        true.append(function(curves(x[None], EPOCHS)[0]))
        seen.append(true[-1] + NOISE * noise.standard_normal())
        best.append(round(true[int(np.argmin(seen))], 6))
        return seen[-1]

    search = _bayesian if settings["method"] == BAYESIAN else _relaxed
    search(settings, evaluate)
    return {"best": best, "final": best[-1]}


def _relaxed(settings, evaluate):
    """Algorithm 2; without steps it is a random search."""
    update, _, form = settings["method"].partition(", ")
    moves = update in STEPS
    search = Search(
        samples_per_round=4,
        update=update if moves else "gradient",  # Which is never asked.
        step=1.0,
        candidates=int(form.split()[0]) if "candidates" in form else 1,
        shared=False,
        epochs=EPOCHS,
        seed=settings["seed"],
    )
    results = []
    for number in range(settings["trials"]):
        if moves:
            search.advance(results)
        x = search.draw(number, results)
        results.append(Result(x, evaluate(x), len(search.thetas) - 1))


def _bayesian(settings, evaluate):
    """KerasTuner's own, which does not know that alpha has sum 1."""
    hp = keras_tuner.HyperParameters()
    S2ESchedule.from_hyperparameters(hp, EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        tuner = _BayesianTuner(
            objective=keras_tuner.Objective("value", "min"),
            max_trials=settings["trials"],
            hyperparameters=hp,
            seed=settings["seed"] + 1,  # KerasTuner takes 0 for no seed.
            directory=folder,
        )
        tuner.search(evaluate, verbose=0)


class _BayesianTuner(keras_tuner.BayesianOptimization):
    def run_trial(self, trial, evaluate, **kwargs):
        hp = trial.hyperparameters
        schedule = S2ESchedule.from_hyperparameters(hp, EPOCHS)
        numbers = [schedule.alpha, schedule.beta.ravel()]
        return float(evaluate(np.concatenate(numbers)))


# The report.


def _best(records):
    """Best so far of each method and kind, of shape `(problems, trials)`."""
    found = render.values_by(
        records, lambda s: (s["method"], s["kind"]), "best"
    )
    return {key: np.array(best) for key, best in found.items()}


def _shown(records):
    trials = records[0]["settings"]["trials"]
    return [at for at in AT if at <= trials]


def _table(best, shown):
    middle = shown[:2][-1]
    columns = [(kind, at) for kind in KINDS for at in shown]
    rivals = ("random", BAYESIAN)
    header = ["method", *(f"{kind}, {at} trials" for kind, at in columns)]
    header += [f"better than {rival} at {middle}" for rival in rivals]
    return [header] + [
        [
            method,
            *(_mean(best, method, kind, at) for kind, at in columns),
            *(_wins(best, method, rival, middle) for rival in rivals),
        ]
        for method in METHODS
    ]


def _mean(best, method, kind, at):
    """The mean over problems, and against random draws."""
    found = best[method, kind]
    if at > found.shape[1]:
        return "-"
    mean = np.mean(found[:, at - 1])
    change = mean / np.mean(best["random", kind][:, at - 1]) - 1
    return f"{mean:.4f} ({change:+.0%})"


def _wins(best, method, rival, at):
    """On how many problems a method has found better than a rival."""
    if method == rival:
        return "-"
    found, other = (
        np.concatenate([best[name, kind][:, at - 1] for kind in KINDS])
        for name in (method, rival)
    )
    return f"{np.sum(found < other)} of {len(found)}"


def _report(records):
    best, shown = _best(records), _shown(records)
    split, count = (
        records[0]["settings"]["split"],
        len(best[DEFAULT, "schedule"]),
    )
    notes = [
        f"Means over {count} problems of each kind ({split}), one "
        "search each; all methods share problems and seeds. In brackets: "
        "against random draws.",
        "Best so far: the trial that did best with noise (standard deviation "
        f"{NOISE}), judged without.",
        *(f"{kind}: {name}." for kind, name in KINDS.items()),
        f"{EVEN}: even draws, of which the surrogate chooses; what is left "
        "to p_theta is the difference to this.",
        "Paper: `candidates=1`, Algorithm 2 as it stands. K = 4 and step 1 "
        "for all of S2E's.",
        f"The default is: {DEFAULT}. It was chosen on other problems.",
        "The surrogate knows what all of these problems have in common: that "
        "a trial's numbers matter only through R(t).",
    ]
    return render.Report(
        "Best schedule found after so many trials",
        _table(best, shown),
        notes,
        _figure(best, shown),
    )


def _figure(best, shown):
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    methods = (
        "random",
        BAYESIAN,
        "newton, paper",
        "natural, paper",
        DEFAULT,
        "natural, 256 candidates",
    )
    for axes, (kind, name) in zip(figure.subplots(1, 2), KINDS.items()):
        for method, color in zip(methods, figures.COLORS):
            means = np.mean(best[method, kind], axis=0)
            trials = np.arange(1, len(means) + 1)
            bold = {"linewidth": 2.5} if method == DEFAULT else {}
            axes.plot(trials[3:], means[3:], color=color, label=method, **bold)
        axes.set(xscale="log", xlabel="trials", ylabel=name)
        axes.set_xticks([4, *shown], [4, *shown])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False
    )
    return figure


EXPERIMENT = runner.Experiment("s2e_search", PRESETS, [_plan], _report, run)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
