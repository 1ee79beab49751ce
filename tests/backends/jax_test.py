"""What only JAX's engine does; its functions run beside TensorFlow."""

import math
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from tests.backends.same_numbers_test import ROOT
from tests.backends.same_numbers_test import run_with_jax

jax = pytest.importorskip("jax")
replicas = pytest.importorskip("keras_bilevel.engine.jax.replicas")


def test_own_steps_are_refused_by_name():
    code = """
import keras
import keras_bilevel as kb

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)
    def call(self, x):
        return self.dense(x)
    def test_step(self, *args):
        return super().test_step(*args)

model = kb.BilevelModel(Own(), kb.weighting.DeepBilevel(2))
try:
    model.compile("sgd", "mse")
except ValueError as error:
    print(error)
"""
    printed = run_with_jax(["-c", code])
    assert "Own, which overrides ['test_step']" in printed
    assert "KERAS_BACKEND=tensorflow" in printed


WRITTEN = """
import keras
import numpy as np
from keras import layers
import keras_bilevel as kb

rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(3, size=32)
found = []
for is_ours in (False, True):
    keras.utils.set_random_seed(0)
    # It writes the kernel that it has normalised, which is trained.
    norm = layers.SpectralNormalization(layers.Dense(5))
    network = keras.Sequential([keras.Input((6,)), norm, layers.Dense(3)])
    model = network
    if is_ours:
        model = kb.SelectionModel(network, kb.selection.SelfPaced())
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    for _ in range(3):
        model.train_on_batch(x, y)
    found.append(network.get_weights())
print(max(np.abs(a - b).max() for a, b in zip(*found)))
print(max(np.abs(a).max() for a in found[0]))
"""


def test_layers_that_write_their_kernels_train_as_in_keras():
    difference, size = map(float, run_with_jax(["-c", WRITTEN]).split())
    assert difference < 1e-5 * size


OUT_OF_RANGE = """
import keras
import numpy as np
import keras_bilevel as kb

rng = np.random.default_rng(0)

def batches():
    for last in (3, 3, %d):
        x = rng.normal(size=(4, 3)).astype("float32")
        y = rng.integers(2, size=4)
        yield (x, y, np.array([0, 1, 2, last])), (x, y)

network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model = kb.BilevelModel(network, kb.weighting.Soseleto(8))
model.compile(
    "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
try:
    model.fit(batches(), verbose=0)
except ValueError as error:
    print(error)
print("steps", int(model.optimizer.iterations.value))
print("finite", np.isfinite(model.predict(np.ones((1, 3)), verbose=0)).all())
"""


@pytest.mark.parametrize("last", [8, -1])
def test_ids_out_of_range_are_an_error_before_the_step(last):
    printed = run_with_jax(["-c", OUT_OF_RANGE % last])
    assert "Expected example ids in [0, 8)" in printed
    assert "steps 2" in printed
    assert "finite True" in printed


RESUMED = """
import sys
import keras
import numpy as np
import keras_bilevel as kb

folder, stops = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 4)).astype("float32"), rng.integers(3, size=96)
keras.utils.set_random_seed(0)
network = keras.Sequential([
    keras.Input((4,)),
    keras.layers.Dense(8, "relu"),
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.5),
    keras.layers.Dense(3),
])
model = kb.BilevelModel(network, kb.weighting.DeepBilevel(4))
model.compile(
    keras.optimizers.SGD(0.1, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
history = kb.callbacks.ExampleHistory(96)
data = kb.data.stratified_batches((x, y), 4, 6, ids=True, seed=1)

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == stops:
            raise KeyboardInterrupt

try:
    model.fit(data, epochs=4, verbose=0, callbacks=[
        history, keras.callbacks.BackupAndRestore(folder + "/backup"), Stop(),
    ])
except KeyboardInterrupt:
    sys.exit()
weights = {f"w{i}": w for i, w in enumerate(model.get_weights())}
np.savez(folder + "/end.npz", scores=history.example_scores, **weights)
"""


def test_resumed_run_ends_as_one_without_a_break(tmp_path):
    ends = []
    for name, stops in (("whole", [0]), ("resumed", [2, 0])):
        folder = tmp_path / name
        folder.mkdir()
        # The order of tf.data and that of NumPy are the same.
        packages = None if name == "whole" else tmp_path / "packages"
        for stop in stops:
            run_with_jax(["-c", RESUMED, folder, stop], packages)
        ends.append(dict(np.load(folder / "end.npz")))
    for key, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][key], value, err_msg=key)


SAVED = """
import sys
import keras
import numpy as np
import keras_bilevel as kb

path = sys.argv[1]
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = (np.abs(x).argmax(-1) % 3).astype("int64")
model = keras.saving.load_model(path)
model.fit(kb.data.source_target_batches((x, y), (x[:16], y[:16]), 16, 8,
          seed=1), epochs=2, verbose=0)
np.savez(path + ".npz", score=model.weighting.example_scores,
         iterations=int(model.optimizer.iterations),
         **{f"w{i}": w for i, w in enumerate(model.get_weights())})
"""


def test_saved_model_goes_on_with_the_other_backend(tmp_path):
    import keras_bilevel as kb

    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model = kb.BilevelModel(network, kb.weighting.Soseleto(64, alpha_lr=5.0))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = (np.abs(x).argmax(-1) % 3).astype("int64")
    pairs = kb.data.source_target_batches(
        (x, y), (x[:16], y[:16]), 16, 8, seed=1
    )
    model.fit(pairs, epochs=2, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    run_with_jax(["-c", SAVED, path])
    theirs = dict(np.load(path + ".npz"))
    model = keras.saving.load_model(path)
    pairs = kb.data.source_target_batches(
        (x, y), (x[:16], y[:16]), 16, 8, seed=1
    )
    model.fit(pairs, epochs=2, verbose=0)
    assert theirs.pop("iterations") == int(model.optimizer.iterations) == 16
    score = theirs.pop("score")
    np.testing.assert_allclose(
        score, model.weighting.example_scores, rtol=1e-4, atol=1e-5
    )
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(
            theirs[f"w{i}"], weight, rtol=1e-4, atol=1e-5
        )


PARALLEL = """
import os
import sys

folder, count = sys.argv[1], int(sys.argv[2])
os.environ["XLA_FLAGS"] = " ".join([
    f"--xla_force_host_platform_device_count={count}",
    f"--xla_dump_to={folder}",
    "--xla_dump_hlo_as_text",
    "--xla_dump_hlo_module_re=.*train_step.*",
])
import keras
import numpy as np
import keras_bilevel as kb
from tests.backends import cases

if len(sys.argv) > 4:
    import jax
    process = int(sys.argv[4])
    # Without these, several processes on CPUs do not hear of one another.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(sys.argv[5], 2, process)
    folder = f"{folder}/{process}"
    os.makedirs(folder)
if count > 1:
    keras.distribution.set_distribution(keras.distribution.DataParallel())
mlp = cases.set_weights(keras.Sequential([
    keras.Input((6, 6, 2)),
    keras.layers.Flatten(),
    keras.layers.Dense(64, "relu"),
    keras.layers.BatchNormalization(),
    keras.layers.Dense(3),
]))
if sys.argv[3] == "shards":
    found = cases.weigh_shards(mlp, kb.weighting.DeepBilevel(8))
else:
    found = cases.weigh_examples(mlp, kb.weighting.Soseleto(alpha_lr=20.0))
np.savez(f"{folder}/found.npz", **found)
"""


def multiplications(folder):
    """Returns how many multiplications the matrix products of a step take."""
    (path,) = folder.glob("*after_optimizations.txt")
    shapes, total = {}, 0
    for line in path.read_text().splitlines():
        found = re.match(r"\s*(?:ROOT )?(%\S+) = \w+\[([\d,]*)\]", line)
        if not found:
            continue
        name, shape = found.groups()
        shapes[name] = [int(size) for size in shape.split(",") if size]
        product = re.search(
            r" dot\((%[^,]+), .*lhs_contracting_dims={(.*?)}", line
        )
        if product:
            left, axes = product.groups()
            inner = [shapes[left][int(axis)] for axis in axes.split(",")]
            total += math.prod(shapes[name]) * math.prod(inner)
    return total


@pytest.mark.parametrize("unit", ["shards", "examples"])
def test_devices_share_the_work_and_give_the_numbers_of_one(tmp_path, unit):
    found, work = {}, {}
    for count in (1, 4):
        folder = tmp_path / str(count)
        run_with_jax(["-c", PARALLEL, folder, count, unit])
        found[count] = dict(np.load(folder / "found.npz"))
        work[count] = multiplications(folder)
    for key, value in found[1].items():
        np.testing.assert_allclose(
            found[4][key], value, rtol=1e-5, atol=1e-5, err_msg=key
        )
    assert work[4] < 0.35 * work[1]


def test_example_for_several_devices_runs(monkeypatch):
    guide = (ROOT / "docs" / "distribute.md").read_text()
    _, _, rest = guide.partition("## With JAX\n")
    example = rest.split("```")[1].removeprefix("python\n")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    devices = "\nassert keras.distribution.distribution().device_mesh.shape == "
    printed = run_with_jax(["-c", example + devices + "(2,)"])
    _, accuracy = map(float, printed.splitlines()[-1].strip("[]").split(","))
    assert accuracy > 0.8


def free_addresses():
    with socket.socket() as one, socket.socket() as other:
        for s in (one, other):
            s.bind(("127.0.0.1", 0))
        return ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in (one, other))


# Batches come from NumPy and from tf.data.
@pytest.mark.parametrize("unit", ["shards", "examples"])
def test_processes_give_the_numbers_of_one(tmp_path, unit):
    packages = tmp_path / "packages" if unit == "shards" else None
    run_with_jax(["-c", PARALLEL, tmp_path, 1, unit], packages)
    expected = dict(np.load(tmp_path / "found.npz"))
    addresses = free_addresses()
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(
                run_with_jax,
                ["-c", PARALLEL, tmp_path, 2, unit, process, addresses],
                packages,
            )
            for process in (0, 1)
        ]
        for process, run in enumerate(runs):
            run.result()
            found = dict(np.load(tmp_path / str(process) / "found.npz"))
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_allclose(
                    found[key], value, rtol=1e-5, atol=1e-5, err_msg=key
                )


def distribution(kind, **options):
    made = object.__new__(getattr(keras.distribution, kind))
    for name, value in options.items():
        setattr(made, name, value)
    return made


def test_data_of_one_process_are_left_as_they_are(monkeypatch):
    own = distribution("DataParallel", auto_shard_dataset=False)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: own)
    assert replicas.part_of_worker("batches") == "batches"


def test_processes_that_share_a_model_are_refused(monkeypatch):
    own = distribution("ModelParallel", auto_shard_dataset=True)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: own)
    with pytest.raises(ValueError, match="Received: ModelParallel"):
        replicas.part_of_worker("batches")


def test_arrays_to_validate_on_are_refused_in_several_processes(monkeypatch):
    def check(data, **options):
        own = distribution("DataParallel", **options)
        monkeypatch.setattr(keras.distribution, "distribution", lambda: own)
        replicas.check_validation(data)

    arrays = np.zeros((4, 2)), np.zeros(4)
    check(None, auto_shard_dataset=True)
    check("a dataset", auto_shard_dataset=True)
    check(arrays, auto_shard_dataset=False)
    with pytest.raises(ValueError, match="Expected `validation_data`"):
        check(arrays, auto_shard_dataset=True)


IN_TURN = """
import sys
import keras
import numpy as np
from keras_bilevel.engine.jax import shards
from tests.backends import cases

if sys.argv[1] == "in turn":
    shards._MOST_BYTES = 0
    shards._Weigher.of_all = None  # Fails if shards are not taken in turn.
found = {}
for name in sys.argv[3:]:
    for key, value in cases.CASES["shards"][name]().items():
        found[f"{name}/{key}"] = value
np.savez(sys.argv[2], **found)
"""


def test_shards_in_turn_give_the_numbers_of_shards_together(tmp_path):
    names = ["batchnorm", "per_layer", "bad_rows", "own_state", "dropout"]
    names += ["not_normalized_two_judges"]
    names = [f"shards_{name}" for name in names]
    for way in ("in turn", "together"):
        run_with_jax(["-c", IN_TURN, way, tmp_path / f"{way}.npz", *names])
    expected = dict(np.load(tmp_path / "together.npz"))
    found = dict(np.load(tmp_path / "in turn.npz"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=1e-5, atol=1e-5, err_msg=key
        )
