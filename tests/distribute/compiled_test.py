"""The step is one that XLA, and with it a TPU, can take."""

import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from tests.distribute import runs

ONE = tf.distribute.get_strategy()

WEIGHTINGS = {
    "shards": lambda: kb.weighting.DeepBilevel(runs.SHARDS),
    "many_shards": lambda: kb.weighting.DeepBilevel(10, per_layer=True),
    "exact": lambda: kb.weighting.DeepBilevel(runs.SHARDS, solver="exact"),
    "soseleto": lambda: kb.weighting.Soseleto(240, alpha_lr=5.0),
    "weights_first": lambda: kb.weighting.Soseleto(
        240, update_weights_first=True
    ),
    "learning_to_reweight": kb.weighting.LearningToReweight,
    "meta_weight_net": lambda: kb.weighting.MetaWeightNet(8),
}

# Kept on the host, or of a size that only the data tell.
FORBIDDEN = (
    "PyFunc",
    "EagerPyFunc",
    "Print",
    "Where",
    "Unique",
    "DynamicPartition",
    "NonMaxSuppression",
    "SparseToDense",
    "AsString",
    "StringFormat",
    "StringJoin",
    "ReadFile",
    "Iterator",
    "Queue",
    "HashTable",
    "RaggedTensor",
)
TYPES = (tf.float64, tf.complex128, tf.string)


def batches(weighting):
    if isinstance(weighting, kb.weighting.ExampleWeighting):
        return runs.source_target(runs.examples())
    return kb.data.stratified_batches(
        runs.examples(), weighting.num_shards, 4, ids=True, seed=3
    )


def observers():
    return [kb.callbacks.ExampleHistory(240), kb.callbacks.WeightHistory()]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_compiled_step_equals_the_plain_one(name):
    outcomes = []
    for jit_compile in (False, True):
        model = runs.compiled(
            ONE, WEIGHTINGS[name], "adam", jit_compile=jit_compile
        )
        watch = observers()
        history = model.fit(
            batches(model.weighting), verbose=0, callbacks=watch
        ).history
        outcomes.append(
            runs.outcome(
                model,
                history,
                given_probability=np.nan_to_num(watch[0].given_probability),
                weights=watch[1].weights,
            )
        )
    different = runs.differences(*outcomes)
    assert max(different.values()) < 2e-5, different


def graphs_of(graph):
    """Yields a graph and those of all functions that it calls."""
    yield graph
    for name in graph._functions:
        function = graph._get_function(name)
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from graphs_of(inner)


def unfit(graph):
    """Returns what XLA or a TPU cannot take in a graph, and all it has."""
    found, seen = [], set()
    for inner in graphs_of(graph):
        for operation in inner.get_operations():
            name = operation.name.lower()
            # XLA drops assertions, and their texts with them. What a loop
            # does not need has no shape.
            if "assert" in name or "redundant_placeholder" in name:
                continue
            seen.add(operation.type)
            # XLA takes where a slice begins for a constant, but in a loop: it
            # would compile the step anew for every value.
            begins_anywhere = (
                operation.type == "StridedSlice"
                and not name.startswith("while/")
                and tf.get_static_value(operation.inputs[1]) is None
            )
            if operation.type.startswith(FORBIDDEN) or begins_anywhere:
                found.append(operation)
            for tensor in operation.outputs:
                kind = tensor.dtype.base_dtype
                is_opaque = kind in (tf.resource, tf.variant)
                is_static = is_opaque or tensor.shape.is_fully_defined()
                if kind in TYPES or not is_static:
                    found.append(tensor)
    return found, seen


@pytest.mark.parametrize(
    "name",
    [
        "shards",
        "many_shards",
        "soseleto",
        "learning_to_reweight",
        "meta_weight_net",
    ],
)
def test_graph_of_the_step_is_fit_for_a_tpu(name):
    model = runs.compiled(ONE, WEIGHTINGS[name], "adam")
    watch = observers()
    dataset = batches(model.weighting)
    model.fit(dataset.take(1), verbose=0, callbacks=watch)
    step = tf.function(model.train_step)
    graph = step.get_concrete_function(dataset.element_spec).graph
    found, seen = unfit(graph)
    assert not found
    # It was the whole step that was looked at, loops and observers too.
    assert {"MatMul", "AssignVariableOp", "ResourceScatterAdd"} <= seen
    assert any("While" in kind for kind in seen) == (name == "many_shards")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.boolean_mask(x, x > 0),
        lambda x: tf.numpy_function(np.sum, [x], "float32"),
        lambda x: tf.cast(x, "float64"),
        lambda x: tf.map_fn(lambda row: tf.unique(row)[0][0], x),
        lambda x: x[tf.argmax(x[0])],
    ],
)
def test_wrong_step_would_be_found(function):
    step = tf.function(function)
    found, _ = unfit(
        step.get_concrete_function(tf.TensorSpec((4, 3), "float32")).graph
    )
    assert found


def test_example_id_out_of_range_is_an_error_though_compiled():
    x, y = runs.examples()
    model = runs.compiled(
        ONE, lambda: kb.weighting.Soseleto(100), jit_compile=True
    )
    ids = np.arange(240)
    dataset = tf.data.Dataset.from_tensors(((x, y, ids), (x, y)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 100\)"):
        model.fit(dataset, verbose=0)
