"""Which rates can one take?

The rule under test: a rate is stable for Deep Bilevel about where it is
stable for plain SGD *with batches as large as the validation shards* V. So
each weighting is compared with SGD on batches of |V|, and with SGD on batches
as large as its whole super-batch.
"""

import math

from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

BATCH_SIZE = 128
NUM_TRAIN = 1437  # Of digits.
PRESETS = {
    "quick": {
        "networks": ["mlp"],
        "rates": [0.01, 0.03, 0.1],
        "shards": [(8, 1), (32, 1)],
        "steps": 100,
        "seeds": [0],
    },
    "paper": {
        "networks": ["mlp", "cnn", "cnn_bn"],
        "rates": [0.01, 0.03, 0.1, 0.3],
        # Examples per shard, and how many shards validate.
        "shards": [(4, 1), (4, 4), (32, 1)],
        "steps": 300,
        "seeds": [0],
    },
}


def _plan(preset, records):
    parts = sorted({size * count for size, count in preset["shards"]})
    methods = plans.each("batch_size", [*parts, BATCH_SIZE]) + [
        {"batch_size": BATCH_SIZE, **plans.bilevel(BATCH_SIZE // size, v)}
        for size, v in preset["shards"]
    ]
    for method in methods:  # As many epochs as it takes to make the steps.
        steps_an_epoch = NUM_TRAIN // method["batch_size"]
        epochs = math.ceil(preset["steps"] / steps_an_epoch)
        method |= {"epochs": epochs, "every": epochs}
    return plans.runs(
        plans.noisy,
        plans.each("seed", preset["seeds"]),
        plans.each("network", preset["networks"]),
        methods,
        plans.each("learning_rate", preset["rates"]),
    )


def _step_size(settings):
    """|V|, the examples that a step's noise comes from, by the rule."""
    if settings["method"] == "sgd":
        return settings["batch_size"]
    shard_size = settings["batch_size"] // settings["num_shards"]
    return shard_size * settings["num_validation_shards"]


def _line(settings):
    if settings["method"] == "bilevel":
        count = settings["num_validation_shards"]
        return f"Deep Bilevel, {count} of the shards validating"
    if settings["batch_size"] == BATCH_SIZE:
        return f"SGD, batches of {BATCH_SIZE}"
    return "SGD, batches of |V|"


def largest_stable_rate(records):
    """Returns the largest rate up to which no run ran away, or `None`."""
    stable = None
    ran_away = render.values_by(records, "learning_rate", "ran_away")
    for rate, found in sorted(ran_away.items()):
        if any(found):
            break
        stable = rate
    return stable


def _table(records):
    header = [
        "network",
        "batch or |V|",
        "method",
        "largest stable rate",
        "best test (clean)",
        "at rate",
    ]
    groups = render.group(
        records, lambda s: (s["network"], _step_size(s), render.method(s))
    )
    networks = PRESETS["paper"]["networks"]
    keys = sorted(groups, key=lambda key: (networks.index(key[0]), *key[1:]))
    return [header, *(_row(*key, groups[key]) for key in keys)]


def _row(network, size, method, records):
    tests = render.values_by(records, "learning_rate", "test")
    best = max(tests, key=lambda rate: render.spread(tests[rate])[0])
    stable = largest_stable_rate(records)
    return [
        network,
        str(size),
        method,
        "none" if stable is None else f"{stable:g}",
        render.cell(tests[best]),
        f"{best:g}",
    ]


def _report(records):
    first = records[0]["settings"]
    steps = min(render.values(records, "steps"))
    notes = [
        f"Labels: {render.noise(first)}; momentum {first['momentum']}, "
        f"constant rates, inputs in [-1, 1]. Each run makes {steps} steps, and "
        "those that are left of its last epoch.",
        "A rate is stable if no run ran away at it or below: the final "
        "training loss is under 0.99 log C, the loss at chance.",
        "Best test: over all rates, chosen on the test set.",
        "|V|: examples in the validation shards together. By the rule, Deep "
        "Bilevel is as steady as SGD with batches of |V|.",
    ]
    return render.Report(
        "Which rates are stable on digits",
        _table(records),
        notes,
        figures.rates(
            _in_every_panel(records),
            rows="network",
            columns=lambda s: f"|V| = {s['panel']}",
            lines=_line,
            metric="test",
        ),
    )


def _in_every_panel(records):
    """Repeats the runs with the super-batch's size for each panel."""
    sizes = sorted({_step_size(r["settings"]) for r in records} - {BATCH_SIZE})
    return [
        {**record, "settings": {**record["settings"], "panel": size}}
        for size in sizes
        for record in records
        if _step_size(record["settings"]) in (size, BATCH_SIZE)
    ]


EXPERIMENT = runner.Experiment("steadiness", PRESETS, [_plan], _report)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
