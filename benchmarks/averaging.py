"""Do averaged weights help?

A small validation shard makes a step noisy. An exponential average of the
weights, of Keras' own (`use_ema=True`), takes that noise out of what is
evaluated, and does not change a step. So every method is trained as it is and
with the average, at the same rate, on wrong and on clean labels; held-out noisy
labels say what somebody without clean data would choose.
"""

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

EMA_MOMENTUM = 0.995
_DIGITS = {
    "dataset": "digits",
    "epochs": 100,
    "learning_rate": 0.02,
    "batch_size": 128,
    "every": 5,
}
_USPS = {
    "dataset": "usps",
    "epochs": 50,
    "learning_rate": 0.01,
    "batch_size": 256,
    "every": 5,
}
PRESETS = {
    "quick": {"data": [_DIGITS], "seeds": [0, 1, 2]},
    "paper": {"data": [_DIGITS, _USPS], "seeds": [0, 1, 2]},
}


def _plan(preset, records):
    settings = plans.runs(
        plans.noisy,
        plans.each("held_out", [0.0, 0.2]),
        plans.each("seed", preset["seeds"]),
        preset["data"],
        plans.each("noise", [0.5, 0.0]),
        [{"method": "sgd"}, plans.bilevel(8), plans.bilevel(32)],
    )
    averages = ({}, {"ema_momentum": EMA_MOMENTUM})
    return [{**one, **average} for one in settings for average in averages]


def _method(settings):
    return render.method(settings) + _averaged(settings)


def _line(settings):
    """Returns a method without its sizes, which differ between data sets."""
    shards = settings["num_shards"]
    name = f"Deep Bilevel, {shards} shards" if shards else "SGD"
    return name + _averaged(settings)


def _averaged(settings):
    return ", averaged" if "ema_momentum" in settings else ""


def _report(records):
    chosen, final = render.held_out(records)
    held = render.values_by(chosen, _row, "held_out")
    rows = {"data": "dataset", "noise": render.noise, "method": _method}
    columns = {
        "test (clean)": "test",
        "best epoch": "best_test",
        "held-out noisy labels": lambda runs: _held_out(runs, held),
    }
    notes = [
        render.NOTES[0],
        "Held-out noisy labels: accuracy on the fifth of the given labels that "
        "was not trained on, in runs of their own. Nobody needs clean data to "
        "choose by it.",
        render.NOTES[3],
    ]
    return render.Report(
        "Averaged weights (use_ema=True, ema_momentum="
        f"{EMA_MOMENTUM}) and the same without",
        render.table(final, rows, columns),
        notes,
        figures.curves(final, lines=_line, kinds=("test",)),
    )


def _row(settings):
    return render.data_and_noise(settings), _method(settings)


def _held_out(runs, held):
    found = held.get(_row(runs[0]["settings"]))
    return render.cell(found) if found else "-"


EXPERIMENT = runner.Experiment("averaging", PRESETS, [_plan], _report)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
