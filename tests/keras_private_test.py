"""Private names: all in one module, and each still there."""

import ast
import inspect
import pathlib

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.trainers import data_adapters

import keras_bilevel
from keras_bilevel import keras_private

PACKAGE = pathlib.Path(keras_bilevel.__file__).parent
FOREIGN = (
    "keras.src",
    "tensorflow.python",
    "keras_tuner.src",
    "keras_tuner.engine",
)


def network():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="inner")
    inputs = {"a": keras.Input((3,), name="a")}
    hidden = layers.Dropout(0.5)(inner(inputs["a"]))
    outputs = {"b": layers.BatchNormalization(name="b")(hidden)}
    return keras.Model(inputs, outputs)


def compiled():
    model = network()
    model.compile("sgd", {"b": "mse"}, metrics={"b": ["mae"]})
    return model


def all_layers():
    names = [layer.name for layer in keras_private.all_layers(network())]
    assert {"inner", "b"} < set(names)
    assert any(name.startswith("dense") for name in names)


def own_trainable_variables():
    inner, dense = network().get_layer("inner"), layers.Dense(2)
    dense.build((None, 3))
    assert len(keras_private.own_trainable_variables(dense)) == 2
    assert len(keras_private.own_trainable_variables(inner)) == 0


def own_state_variables():
    layer = network().get_layer("b")
    assert len(keras_private.own_state_variables(layer)) == 2


def seed_generators():
    generators = keras_private.seed_generators(layers.Dropout(0.5))
    assert len(generators) == 1
    assert hasattr(generators[0], "state")


def structure_of():
    model = network()
    assert list(keras_private.structure_of(model, "inputs")) == ["a"]
    assert list(keras_private.structure_of(model, "outputs")) == ["b"]
    one = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert keras_private.structure_of(one, "inputs").shape == (None, 3)


def autocast():
    layer = layers.Dense(2, dtype="mixed_float16")
    layer.build((None, 3))
    with keras_private.autocast(layer):
        assert layer.kernel.value.dtype == tf.float16
    with keras_private.autocast(layers.Dense(2)):
        pass
    assert layer.kernel.value.dtype == tf.float32


def masked():
    return layers.Masking()(np.array([[[1.0], [0.0]]], "float32"))


def mask_of():
    np.testing.assert_array_equal(
        keras_private.mask_of(masked()), [[True, False]]
    )


def set_mask():
    tensor = tf.zeros((1, 2))
    keras_private.set_mask(tensor, tf.ones((1, 2), "bool"))
    assert keras.losses.MeanSquaredError()(tf.ones((1, 2)), tensor) == 1.0


def map_companions():
    softmax = keras.activations.softmax(tf.zeros((2, 3)))
    for tensor in (masked(), softmax):
        result = keras_private.map_companions(
            lambda t: t[:1], tensor, tensor[:1]
        )
        assert (
            set(vars(tensor))
            & set(vars(result))
            & {
                "_keras_mask",
                "_keras_logits",
            }
        )


def compiled_losses():
    assert keras_private.compiled_losses(network()) is None
    assert keras_private.compiled_losses(compiled()).built is False


def made():
    return keras_private.CompiledLosses(
        {"b": "mse", "c": "mae"},
        {"b": 1.0, "c": 2.0},
        ["b", "c"],
        make_loss=lambda loss: loss,
        make_tracker=lambda name: keras.metrics.Sum(name=name),
    )


def arguments():
    y = {"b": tf.ones((4, 2)), "c": tf.ones((4, 2))}
    return y, keras.tree.map_structure(tf.zeros_like, y)


def CompiledLosses():
    losses = made()
    assert losses(*arguments()) == 3.0
    assert [type(m) for m in losses.metrics] == [keras.metrics.Sum] * 2


def loss_entries():
    losses = made()
    losses(*arguments())
    entries = keras_private.loss_entries(losses)
    assert [e.name for e in entries] == ["b", "c"]
    assert [e.path for e in entries] == [("b",), ("c",)]
    assert [e.loss_weights for e in entries] == [1.0, 2.0]
    assert all(isinstance(e.loss, keras.losses.Loss) for e in entries)


def call_each_loss():
    losses, seen = made(), []
    losses(*arguments())
    before = [float(m.result()) for m in losses.metrics]
    notes = [lambda *a, i=i: seen.append((i, a)) or tf.zeros(()) for i in "bc"]
    weights = tf.ones((4,))
    keras_private.call_each_loss(losses, notes, *arguments(), weights)
    assert [i for i, _ in seen] == ["b", "c"]
    assert all(a[2] is weights for _, a in seen)
    assert [float(m.result()) for m in losses.metrics] == before


def loss_options():
    loss = keras.losses.SparseCategoricalCrossentropy(axis=1)
    assert keras_private.loss_options(loss)["axis"] == 1
    assert keras_private.loss_options(None) == {}


def set_compiled():
    model, losses = compiled(), made()
    tracker = keras.metrics.Mean(name="loss")
    keras_private.set_compiled(model, losses, tracker)
    assert keras_private.compiled_losses(model) is losses
    assert [m.name for m in model.metrics].count("loss") == 1


def loss_tracker():
    assert keras_private.loss_tracker(compiled()).name == "loss"


def share_compiled():
    model, other = compiled(), network()
    keras_private.share_compiled(model, other)
    assert other.compiled and other.loss == model.loss
    assert [id(m) for m in other.metrics] == [id(m) for m in model.metrics]
    assert len(other.metrics) == 2


def TrainerHooks():
    class Hooked(keras_private.TrainerHooks, keras.Sequential):
        def logs_of_epoch(self, logs):
            return {"own": 1.0, **super().logs_of_epoch(logs)}

    model = Hooked([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    logs = model.fit(np.zeros((2, 3)), np.zeros((2, 1)), verbose=0)
    assert {"own", "loss"} <= set(logs.history)


def JaxHooks():
    # The trainer for JAX has the method that is hooked; `tests/backends` train
    # with it.
    from keras.src.backend.jax.trainer import JAXTrainer

    assert callable(JAXTrainer._symbolic_build)
    seen = []

    class Hooked(keras_private.JaxHooks):
        def build_on_first_batch(self, iterator, data_batch):
            seen.append(data_batch)

    Hooked()._symbolic_build(data_batch="batch")
    assert seen == ["batch"]


def current_scope():
    assert keras_private.current_scope() is None
    with keras.StatelessScope() as scope:
        assert keras_private.current_scope() is scope


def given_losses():
    assert keras_private.given_losses(compiled()) == []


def giving_losses():
    model = compiled()
    with keras_private.giving_losses(model, [1.0]):
        assert model.losses == keras_private.given_losses(model) == [1.0]
    assert model.losses == []


def TensorFlowHooks():
    seen = []

    class Hooked(keras_private.TensorFlowHooks, keras.Sequential):
        def wrap_step(self, step):
            seen.append("step")
            return super().wrap_step(step)

        def build_on_first_batch(self, iterator, data_batch):
            seen.append("build")

        def logs_of_epoch(self, logs):
            seen.append("logs")
            return super().logs_of_epoch(logs)

    model = Hooked([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.zeros((2, 3)), np.zeros((2, 1)))
    model.fit(np.zeros((2, 3)), np.zeros((2, 1)), verbose=0)
    assert {"step", "build", "logs"} <= set(seen)


def has_strategy():
    assert not keras_private.has_strategy(network())
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        assert keras_private.has_strategy(network())


def build_symbolically():
    model = compiled()
    batch = ({"a": np.zeros((2, 3))}, {"b": np.zeros((2, 2))})
    keras_private.build_symbolically(model, batch)
    assert keras_private.compiled_losses(model).built


def without_model():
    callback = keras.callbacks.Callback()
    callback.set_model(compiled())
    assert callback.model is not None
    callback.__dict__ = keras_private.without_model(callback)
    assert callback.model is None


def inputs_of():
    first = tf.data.Dataset.range(3)
    assert keras_private.inputs_of(first.map(lambda i: i)) == [first]
    assert keras_private.inputs_of(first) == []
    assert keras_private.inputs_of(None) == []


def registered_gradient():
    assert callable(keras_private.registered_gradient("MatMul"))
    with pytest.raises(LookupError):
        keras_private.registered_gradient("NoSuchOperation")


def unregister_gradient():
    tf.RegisterGradient("KerasBilevelTest")(lambda op, change: change)
    keras_private.unregister_gradient("KerasBilevelTest")
    with pytest.raises(LookupError):
        keras_private.registered_gradient("KerasBilevelTest")


def DataAdapter():
    class Batches(keras_private.DataAdapter):
        def __len__(self):
            return 2

        def __iter__(self):
            yield from ("one", "two")

    batches = Batches()
    assert data_adapters.get_data_adapter(batches) is batches
    assert batches.num_batches == 2
    assert list(batches.get_jax_iterator()) == ["one", "two"]
    assert list(batches.get_numpy_iterator()) == ["one", "two"]

    class Unknown(Batches):
        def __len__(self):
            raise TypeError

    assert Unknown().num_batches is None


def OracleHooks(tmp_path):
    class Hooked(keras_private.OracleHooks, keras_tuner.Oracle):
        def populate_space(self, trial_id):
            return {"status": "RUNNING", "values": {}}

        def save_trial(self, trial):
            self.saved = trial.trial_id
            super().save_trial(trial)

    oracle = Hooked(objective=keras_tuner.Objective("loss", "min"))
    oracle._set_project_dir(tmp_path, "project")
    trial = oracle.create_trial("tuner0")
    assert oracle.saved == trial.trial_id
    folder = pathlib.Path(oracle.trial_folder(trial.trial_id))
    assert (folder / "trial.json").exists()
    oracle.save()
    assert pathlib.Path(oracle.oracle_file()).exists()


CHECKS = [
    name
    for name, value in vars(keras_private).items()
    if getattr(value, "__module__", None) == keras_private.__name__
    and not name.startswith("_")
]


@pytest.mark.parametrize("name", CHECKS)
def test_private_name_is_still_there(name, tmp_path):
    # Each is checked by the function of its name in this module.
    check = globals()[name]
    needs_folder = inspect.signature(check).parameters
    try:
        check(tmp_path) if needs_folder else check()
    except (AttributeError, ImportError, TypeError) as error:
        pytest.fail(f"`keras_private.{name}` no longer works: {error}")


def names_of_our_own(trees):
    """Names that the package itself gives to attributes and methods."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(
            node.ctx, ast.Store
        ):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names(tree, ours):
    """Yields private names of others that a module uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in ours:
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith(FOREIGN):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (
                a.name for a in node.names if a.name.startswith(FOREIGN)
            )
        elif isinstance(node, ast.Call):
            # getattr(tensor, "_keras_mask") and its like.
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("getattr", "hasattr", "setattr", "__setattr__"):
                for argument in node.args:
                    value = getattr(argument, "value", None)
                    if isinstance(value, str) and is_private(value):
                        if value not in ours:
                            yield value


def test_private_names_are_in_one_module():
    files = sorted(PACKAGE.rglob("*.py"))
    trees = {file: ast.parse(file.read_text()) for file in files}
    home = PACKAGE / "keras_private.py"
    others = {file: tree for file, tree in trees.items() if file != home}
    ours = set(names_of_our_own(others.values()))
    found = {
        f"{file.relative_to(PACKAGE)}: {name}"
        for file, tree in others.items()
        for name in private_names(tree, ours)
    }
    assert not found
    # The home has some, or this test would see nothing.
    assert len(set(private_names(trees[home], ours))) > 10
