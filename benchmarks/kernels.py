"""How many kernels does a step of Deep Bilevel Learning run?

Where a kernel takes about as long on a few examples as on many, as on a GPU,
their number tells what small shards cost. Counted are the ops that a step
executes, those in a loop as often as it turns, and the instructions of the
program that XLA makes of the step. The loop over shards is that of CPUs, and of
gradients that are too large to hold; all at once is what accelerators do.
"""

import collections
import re
import tempfile
from pathlib import Path
from unittest import mock

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks import costs
from benchmarks import figures
from benchmarks import plans
from benchmarks import render
from benchmarks import runner
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import one_pass

EXAMPLES = 128
WAYS = ["a pass for each shard", "one pass, a loop", "one pass, all at once"]
PRESETS = {
    "quick": {"seeds": [0], "networks": ["resnet20"]},
    "paper": {"seeds": [0], "networks": ["cnn", "resnet20", "mobilenet_v2"]},
}
# What moves no numbers.
FREE = set(
    "Const Identity IdentityN NoOp ReadVariableOp Reshape Squeeze ExpandDims "
    "Shape ShapeN Enter Exit Merge Switch NextIteration LoopCond _Arg _Retval "
    "_Send _Recv While If StatelessWhile StatelessIf PartitionedCall "
    "StatefulPartitionedCall VarHandleOp".split()
)
FREE_IN_XLA = set(
    "parameter constant tuple get-tuple-element bitcast after-all "
    "partition-id replica-id".split()
)


def _plan(preset):
    shards = [
        {"num_shards": count, "way": way} for count in (8, 32) for way in WAYS
    ]
    ways = [{"num_shards": None, "way": "plain"}, *shards]
    networks = plans.each("network", preset["networks"])
    return plans.grid([{"kind": "kernels"}], networks, ways)


def _kernels(settings):
    has_one, is_loop = (settings["way"] != WAYS[0], settings["way"] == WAYS[1])
    batch = tuple(map(tf.constant, costs.batch(EXAMPLES, (32, 32, 3))))
    can_share = one_pass.can_share
    with (
        mock.patch.object(
            one_pass, "can_share", lambda *a: has_one and can_share(*a)
        ),
        mock.patch.object(at_once, "prefers_loops", lambda: is_loop),
    ):
        model = costs.model(settings["network"], settings["num_shards"])
        model.train_on_batch(*batch)
        step = tf.function(lambda: model.train_step(batch), autograph=False)
        ops = executed(step)
        program = tf.function(
            lambda: model.train_step(batch), autograph=False, jit_compile=True
        )
        hlo = program.experimental_get_compiler_ir()(stage="optimized_hlo")
    turns = (settings["num_shards"] or 1) - 1
    return {"ops": ops, "xla": instructions(hlo, turns)}


def executed(step):
    """Returns how many ops a `tf.function` executes."""
    step()  # The first call traces.
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    names = [
        plane.event_metadata[event.metadata_id].name
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]
    # Such as "while/body/MatMul:MatMul".
    kinds = [re.search(r"[^: ]:([A-Z_]\w+)$", name) for name in names]
    return sum(kind is not None and kind[1] not in FREE for kind in kinds)


def instructions(hlo, turns):
    """Returns how many instructions an optimised program of XLA executes.

    Args:
        hlo: String, the program.
        turns: Integer, how often a loop turns of which it does not say so.
    """
    bodies, main, name = collections.defaultdict(list), None, None
    for line in hlo.splitlines():
        if line.endswith("{") and "->" in line:
            name = line.split("(")[0].split()[-1]
            main = name if line.startswith("ENTRY") else main
        elif " = " in line:
            bodies[name].append(line)

    def count(name):
        total = 0
        for line in bodies[name]:
            kind = re.search(r"[\]})] ([a-z][a-z0-9-]*)\(", line)[1]
            if kind == "while":
                body = re.search(r"body=([^,\s]+)", line)[1]
                known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                total += count(body) * int(known[1] if known else turns)
            elif kind == "call":
                total += count(re.search(r"to_apply=([^,\s]+)", line)[1])
            else:
                total += kind not in FREE_IN_XLA
        return total

    return count(main)


def _describe(settings):
    count = settings["num_shards"]
    name = f"{settings['network']}, {settings['way']}"
    if count is None:
        return name
    return f"{name}, {count} shards of {EXAMPLES // count}"


def _report(records):
    records = _with_ratios(records)
    columns = {
        "ops": "ops",
        "over plain": "ops_ratio",
        "XLA's instructions": "xla",
        "XLA over plain": "xla_ratio",
    }
    return render.Report(
        "Kernels of a step",
        render.table(records, {"what": _describe}, columns),
        [
            f"Of one step on {EXAMPLES} images of 32x32x3, by TensorFlow's "
            "profiler. Left out: ops that move no numbers, such as reshapes.",
            "XLA: instructions of the program for a CPU, after fusion, those "
            "of loops as often as they turn. For a GPU it fuses otherwise.",
            "Networks with BatchNorm took a pass for each shard before. All at "
            "once is what a GPU does, if rows take no more memory than outputs "
            "of layers do.",
        ],
        _figure(records),
    )


def _with_ratios(records):
    plain = {
        record["settings"]["network"]: record["metrics"]
        for record in records
        if record["settings"]["num_shards"] is None
    }
    found = []
    for record in records:
        metrics = record["metrics"]
        base = plain[record["settings"]["network"]]
        ratios = {f"{name}_ratio": metrics[name] / base[name] for name in base}
        found.append({**record, "metrics": {**metrics, **ratios}})
    return found


def _figure(records):
    figure = figures.bars(
        [r for r in records if r["settings"]["num_shards"] is not None],
        _describe,
        ["ops_ratio", "xla_ratio"],
        "kernels of a plain step (lower is better)",
    )
    figure.axes[0].set_xscale("log")
    return figure


EXPERIMENT = costs.experiment(
    "kernels", PRESETS, _plan, {"kernels": _kernels}, _report
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
