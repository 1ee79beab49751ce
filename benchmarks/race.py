"""What does a step cost against the same method, written in PyTorch?

Both sides train one network on one batch, in turn, in one process. `plain` is
training without a method, which tells how far the frameworks are apart.
PyTorch is no requirement of this package: `pip install torch` (a CPU build).
"""

import importlib.util

import numpy as np
from absl import app
from matplotlib import colormaps
from matplotlib.figure import Figure

import keras_bilevel as kb
from benchmarks import costs
from benchmarks import figures
from benchmarks import networks
from benchmarks import plans
from benchmarks import render
from benchmarks import runner

SIZES = [64, 256, 1024, 2048]
SHARDS = [2, 8, 32]
NETWORKS = ["mlp", "cnn", "cnn_bn"]
TARGET = 32
PRESETS = {
    "quick": {"pairs": 5, "sizes": [64], "seeds": [0]},
    "paper": {"pairs": 15, "sizes": SIZES, "seeds": [0]},
}
# Names of methods of `torch_methods.Trainer`; not all take all networks.
WAYS = {
    "plain": ["plain"],
    "deep_bilevel": ["shard_by_shard", "shards_by_vmap"],
    "soseleto": ["one_by_one", "examples_by_vmap"],
    "reweight": ["reweight"],
    "co_teaching": ["co_teaching"],
}
# Running statistics have no place in `vmap`; a batch of one has no statistics.
WITHOUT_BATCHNORM = ("shards_by_vmap", "one_by_one", "examples_by_vmap")
# One backward pass for each example takes long enough at this size.
LARGEST = {"one_by_one": 256}
SECONDS = 0.15  # About what a measurement takes.


def _plan(preset):
    rows = [
        {
            "network": network,
            "size": size,
            "method": method,
            "way": way,
            "num_shards": num_shards,
        }
        for size in preset["sizes"]
        for network in NETWORKS
        for method, ways in WAYS.items()
        for way in ways
        if size <= LARGEST.get(way, size)
        if not (network == "cnn_bn" and way in WITHOUT_BATCHNORM)
        for num_shards in (SHARDS if method == "deep_bilevel" else [None])
    ]
    pairs = plans.each("pairs", [preset["pairs"]])
    return plans.grid([{"kind": "race"}], rows, pairs)


def _race(settings):
    batch = _batch(settings)
    theirs = _theirs(settings, batch)
    _, first_theirs = costs.timed(theirs)
    steps = max(1, round(SECONDS / first_theirs))
    ours = _ours(settings, batch, steps)
    _, first_ours = costs.timed(ours)
    measured = costs.compare(
        ours,
        lambda: [theirs() for _ in range(steps)],
        settings["pairs"],
        per=steps,
    )
    return {**measured, "first_ours": first_ours, "first_theirs": first_theirs}


def _batch(settings):
    judged = settings["method"] in ("soseleto", "reweight")
    size = settings["size"] + (TARGET if judged else 0)
    return costs.batch(size, costs.shape(settings["network"]))


def _ours(settings, batch, steps):
    """Returns a function that makes so many steps by `fit`."""
    network = costs.network(settings["network"])
    size, (x, y) = settings["size"], batch
    source, target = (x[:size], y[:size], np.arange(size)), (x[size:], y[size:])
    if settings["method"] == "soseleto":
        network = kb.BilevelModel(network, kb.weighting.Soseleto(size))
        batch = source, target
    elif settings["method"] == "reweight":
        network = kb.BilevelModel(network, kb.weighting.LearningToReweight())
        batch = source, target
    elif settings["method"] == "co_teaching":
        other = costs.network(settings["network"])
        network = kb.SelectionModel(
            [network, other],
            kb.selection.CoTeaching(),
            kb.schedules.ConstantSchedule(0.5),
        )
    # Only Deep Bilevel has shards.
    network = networks.bilevel(network, settings["num_shards"])
    model, dataset = costs.compiled(network), costs.repeated(batch, steps)
    return lambda: model.fit(dataset, verbose=0)


def _theirs(settings, batch):
    """Returns a function that makes a step in PyTorch."""
    # Not a requirement, so not at the top.
    import torch

    from benchmarks import torch_methods

    torch.manual_seed(settings["seed"])
    x, y = (torch.from_numpy(array) for array in batch)
    if settings["network"] != "mlp":
        x = x.movedim(-1, 1).contiguous()
    pair = [torch_methods.network(settings["network"]) for _ in range(2)]
    part = settings["num_shards"] or settings["size"]
    trainer = torch_methods.Trainer(pair, (x, y), part)
    return getattr(trainer, settings["way"])


def describe(settings):
    shards = settings["num_shards"]
    shards = "" if shards is None else f", {shards} shards"
    return f"{settings['network']}, {settings['size']}{shards}"


def _report(records):
    table = render.table(
        records,
        {
            "network, examples": describe,
            "method": "method",
            "in PyTorch": "way",
        },
        {
            "processor time": "cpu_ratio",
            "wall time": "wall_ratio",
            "ms": "ms",
            "PyTorch's ms": "plain_ms",
            "first step, s": "first_ours",
            "PyTorch's first, s": "first_theirs",
        },
    )
    notes = [
        "`fit` of this package over a loop in PyTorch of the same steps on the "
        "same batch; below 1 we are ahead. " + costs.PAIRS,
        "SOSELETO and reweight have 32 target examples besides. Our first step "
        "has tracing in it, and those after it in the first call.",
        "A part of the lead is the framework's: compare with plain. It is also "
        "the shards in one pass, and products in place of a gradient for each "
        "example. With batches of 64 and an MLP, what `fit` does besides the "
        "step decides.",
        "PyTorch as most write it: eager, NCHW. In a quick check with the "
        "convolutions, `channels_last` took 0.7 to 0.8 of the time.",
        *_summary(records),
    ]
    return render.Report("A race with PyTorch", table, notes, _figure(records))


def _summary(records):
    """Says of each method and way in how many rows we are ahead."""
    found = render.values_by(
        records, lambda s: f"{s['method']}, {s['way']}", "cpu_ratio"
    )
    for name, ratios in found.items():
        ahead = sum(ratio < 1 for ratio in ratios)
        yield (
            f"{name}: ahead in {ahead} of {len(ratios)} rows; ratio of "
            f"processor times {min(ratios):.2f} to {max(ratios):.2f}, median "
            f"{np.median(ratios):.2f}."
        )


def _line(settings):
    shards = settings["num_shards"]
    return settings["way"] + (f", {shards}" if shards else "")


def _figure(records):
    """Draws the ratio against the size of the batch, a panel a network."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(NETWORKS), sharey=True)
    colors = dict(zip(render.group(records, _line), colormaps["tab20"].colors))
    parts = render.group(records, "network").items()
    for axes, (network, members) in zip(panels, parts):
        for name, runs in render.group(members, _line).items():
            look = {"label": name, "marker": "o", "color": colors[name]}
            figures.against(axes, runs, "size", "cpu_ratio", **look)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set(title=network, xlabel="examples", xscale="log", yscale="log")
    panels[0].set_ylabel("processor time over PyTorch's (lower is better)")
    # The first network takes all methods.
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=7)
    return figure


EXPERIMENT = costs.experiment("race", PRESETS, _plan, {"race": _race}, _report)


def _choose():
    if importlib.util.find_spec("torch") is None:
        raise app.UsageError(
            "Expected PyTorch, which this package does not require. Received: "
            "none. Run `pip install torch` in this environment."
        )
    return EXPERIMENT


if __name__ == "__main__":
    runner.main(_choose)
