"""One pass over the super-batch gives what a pass for each shard does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb
from benchmarks import networks
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import one_pass
from tests.models.tools import batch_of
from tests.models.tools import compiled
from tests.models.tools import train_step
from tests.models.tools import values

EXAMPLES, SHARDS = 32, 8
CAN_SHARE = one_pass.can_share


def images():
    return np.random.default_rng(1).normal(size=(EXAMPLES, 6, 6, 2))


def words(length=5):
    x = np.random.default_rng(1).integers(1, 11, (EXAMPLES, length))
    x[:, 3:] = 0  # Padding.
    return x


def vectors():
    return batch_of(EXAMPLES, inputs=30)[0]


def convolutional():
    return images(), [
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.SeparableConv2D(6, 2, activation="gelu"),
        layers.Flatten(),
        layers.LayerNormalization(),
        layers.Dense(30, activation="elu"),
    ]


def wide():
    return vectors(), [layers.Dense(40, activation="tanh")]


def without_bias():
    return vectors(), [layers.Dense(40, activation="relu", use_bias=False)]


def frozen_bias():
    x, (layer,) = wide()
    layer.build((None, 30))
    layer.bias.trainable = False
    return x, [layer]


def frozen_layer():
    first = layers.Dense(20, activation="tanh", trainable=False)
    return vectors(), [first, layers.Dense(25, activation="relu")]


def called_twice():
    layer = layers.Dense(30, activation="tanh")
    return vectors(), [layer, layers.ReLU(), layer]


def sequences():
    return words(), [
        layers.Embedding(11, 60),
        layers.Dense(50, activation="relu"),
        layers.GlobalAveragePooling1D(),
    ]


def called_by_keyword():
    x, (layer,) = wide()
    return x, [lambda t: layer(inputs=t)]


def nested():
    x, hidden = wide()
    inner = keras.Sequential([keras.Input((30,)), *hidden])
    return x, [inner, layers.Dense(30)]


def normalized():
    """Batch normalisation in all its forms, one of them nested."""
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 4)),
            layers.BatchNormalization(axis=1, center=False, momentum=0.5),
            layers.ReLU(),
            layers.DepthwiseConv2D(2, use_bias=False),
            layers.BatchNormalization(scale=False, trainable=False),
        ]
    )
    frozen = layers.BatchNormalization()
    return images(), [
        layers.Conv2D(4, 3),
        layers.BatchNormalization(momentum=0.9),
        inner,
        layers.Conv2D(6, 1, use_bias=False),
        lambda x: frozen(x, training=False),
        layers.Flatten(),
        layers.BatchNormalization(-1, 0.0, 0.1, scale=False, center=False),
        layers.Dense(30, activation="elu"),
    ]


def normalized_twice():
    layer = layers.BatchNormalization(momentum=0.8)
    return vectors(), [layer, layers.Dense(30, activation="tanh"), layer]


def attention():
    attend = layers.MultiHeadAttention(2, 3)
    return words(), [
        layers.Embedding(11, 6),
        lambda x: layers.Add()([attend(x, x), x]),
        layers.EinsumDense("abc,cd->abd", (None, 5), "silu"),
        layers.GlobalMaxPooling1D(),
    ]


MAKERS = [
    normalized,
    normalized_twice,
    attention,
    convolutional,
    wide,
    without_bias,
    frozen_bias,
    frozen_layer,
    called_twice,
    sequences,
    called_by_keyword,
    nested,
]


def network(make):
    keras.utils.set_random_seed(1)
    x, hidden = make()
    last = layers.Dense(3, activation="softmax")
    dtype = "int32" if x.dtype.kind == "i" else "float32"
    inputs = keras.Input(x.shape[1:], dtype=dtype)
    outputs = inputs
    for layer in [*hidden, last]:
        outputs = layer(outputs)
    return x, keras.Model(inputs, outputs)


def one_by_one(monkeypatch):
    # A pass for each shard.
    monkeypatch.setattr(one_pass, "can_share", lambda *args: False)


def in_a_loop(monkeypatch):
    monkeypatch.setattr(at_once, "prefers_loops", lambda: True)
    monkeypatch.setattr(one_pass, "can_share", sure)


def all_at_once(monkeypatch):
    monkeypatch.setattr(at_once, "prefers_loops", lambda: False)
    monkeypatch.setattr(one_pass, "can_share", sure)


def sure(*args):
    assert CAN_SHARE(*args)
    return True


def step_of(
    monkeypatch, way, build, batch, make_optimizer=lambda: None, **options
):
    """Returns a step, and the state after it, in one of three ways."""
    with monkeypatch.context() as context:
        way(context)
        model = compiled(build(), optimizer=make_optimizer(), **options)
        step = train_step(model, *batch)
    return step, values(model.non_trainable_variables)


def compare(monkeypatch, build, batch, rounding=1.0, **options):
    """Checks that a step is the same in all ways; returns one of them."""
    (ours, state), *others = (
        step_of(monkeypatch, way, build, batch, **options)
        for way in (in_a_loop, all_at_once, one_by_one)
    )
    largest = max(np.abs(g).max() for g in ours.gradients if g is not None)

    def agree(a, b, rtol, atol=1e-6):
        np.testing.assert_allclose(
            a, b, rtol=rounding * rtol, atol=rounding * atol
        )

    for theirs, their_state in others:
        for name in ("weights", "losses", "dropped"):
            agree(getattr(ours, name), getattr(theirs, name), 1e-4)
        for a, b in zip(ours.gradients, theirs.gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                # A bias before batch normalisation has one of mere rounding.
                agree(a, b, 1e-3, 1e-5 * largest)
        keras.tree.map_structure(
            lambda a, b: agree(a, b, 1e-5), ours.y_pred, theirs.y_pred
        )
        for a, b in zip(state, their_state, strict=True):
            agree(a, b, 1e-5)
    return ours


def weighting(**options):
    return kb.weighting.DeepBilevel(SHARDS, **options)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "options", [{}, {"per_layer": True}, {"num_validation_shards": 3}]
)
def test_one_pass_equals_many(monkeypatch, make, options):
    x, _ = network(make)
    y = batch_of(EXAMPLES)[1]
    compare(
        monkeypatch,
        lambda: network(make)[1],
        (x, y, np.linspace(0.5, 2.0, EXAMPLES, dtype="float32")),
        weighting=weighting(**options),
        loss="sparse_categorical_crossentropy",
    )


# Half precision has 3 or 2 digits, and sums of many products lose some.
@pytest.mark.parametrize(
    "policy, rounding", [("mixed_float16", 50.0), ("mixed_bfloat16", 400.0)]
)
@pytest.mark.parametrize("make", [convolutional, normalized, attention])
def test_one_pass_equals_many_in_half_precision(
    monkeypatch, make, policy, rounding
):
    keras.config.set_dtype_policy(policy)
    try:
        x, _ = network(make)
        compare(
            monkeypatch,
            lambda: network(make)[1],
            (x, batch_of(EXAMPLES)[1]),
            rounding,
            weighting=weighting(),
            # At the usual 2^15, some shards overflow.
            make_optimizer=lambda: keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(0.1), 64.0
            ),
        )
    finally:
        keras.config.set_dtype_policy("float32")


def test_shard_that_is_not_finite_is_left_out(monkeypatch):
    x, y = batch_of(EXAMPLES, inputs=30)
    x[9, 2] = np.nan
    step = compare(
        monkeypatch,
        lambda: network(wide)[1],
        (x, y),
        weighting=weighting(),
        loss="sparse_categorical_crossentropy",
    )
    np.testing.assert_array_equal(np.flatnonzero(step.dropped), [2])
    assert all(np.isfinite(g).all() for g in step.gradients)


def two_outputs():
    keras.utils.set_random_seed(1)
    a, b = keras.Input((30,), name="a"), keras.Input((5,), name="b")
    hidden = layers.Dense(40, activation="tanh")(a)
    joined = layers.Add()([layers.Dense(40)(b), hidden])
    return keras.Model(
        {"a": a, "b": b},
        {"many": layers.Dense(3)(joined), "one": layers.Dense(1)(hidden)},
    )


TWO_LOSSES = {
    "loss": {
        "many": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "one": "mse",
    },
    "loss_weights": {"many": 1.0, "one": 3.0},
}


def two_labels(x, y):
    return {"a": x, "b": x[:, :5]}, {"many": y, "one": x[:, :1]}


def test_dicts_of_inputs_outputs_and_losses(monkeypatch):
    batch = two_labels(*batch_of(EXAMPLES, inputs=30))
    compare(
        monkeypatch, two_outputs, batch, weighting=weighting(), **TWO_LOSSES
    )


def test_trackers_of_outputs_stay_finite():
    x, y = batch_of(EXAMPLES, inputs=30)
    x[9, 2] = np.nan
    model = compiled(two_outputs(), weighting(), **TWO_LOSSES)
    logs = model.train_on_batch(*two_labels(x, y), return_dict=True)
    assert logs["dropped_shards"] == 1
    assert all(np.isfinite(value) for value in logs.values()), logs


def masked():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(11, 8, mask_zero=True),
            layers.Dense(30, activation="relu"),
            layers.Dense(3),
        ]
    )


def test_masks_reach_the_loss(monkeypatch):
    x = words()
    y = np.random.default_rng(0).integers(0, 3, x.shape)
    ours = compare(monkeypatch, masked, (x, y), weighting=weighting())
    y[x == 0] = 0  # Where the mask is, labels say nothing.
    again, _ = step_of(
        monkeypatch, in_a_loop, masked, (x, y), weighting=weighting()
    )
    np.testing.assert_allclose(ours.losses, again.losses, rtol=1e-6)


@pytest.mark.parametrize("way", [in_a_loop, all_at_once])
@pytest.mark.parametrize("make", [convolutional, normalized])
@pytest.mark.parametrize("num_shards", [8, 16])  # Unrolled and looped.
def test_graph_and_xla_equal_eager(monkeypatch, num_shards, make, way):
    way(monkeypatch)
    x, _ = network(make)
    y = batch_of(EXAMPLES)[1]
    results = []
    for options in ({"run_eagerly": True}, {}, {"jit_compile": True}):
        model = compiled(
            network(make)[1],
            kb.weighting.DeepBilevel(num_shards),
            loss="sparse_categorical_crossentropy",
            **options,
        )
        model.train_on_batch(x, y)
        results.append([w.numpy() for w in model.weights])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_usual_networks_take_one_pass(name):
    model = compiled(networks.build(name, (32, 32, 3), 10), weighting())
    assert one_pass.can_share(model, model.weighting)


def alone(layer):
    return keras.Sequential([keras.Input((30,)), layer, layers.Dense(3)])


@pytest.mark.parametrize(
    "build, options",
    [
        (lambda: alone(layers.Dense(9, activity_regularizer="l2")), {}),
        (lambda: alone(layers.Lambda(keras.ops.sin)), {}),
        (lambda: alone(layers.Dropout(0.5)), {"same_dropout": True}),
    ],
)
def test_what_belongs_to_a_shard_takes_a_pass_for_each(build, options):
    model = compiled(build(), weighting(**options))
    assert not one_pass.can_share(model, model.weighting)


@pytest.mark.parametrize("make", [wide, normalized])
def test_exact_solver_has_the_gradients(monkeypatch, make):
    x, _ = network(make)
    compare(
        monkeypatch,
        lambda: network(make)[1],
        (x, batch_of(EXAMPLES)[1]),
        weighting=weighting(solver="exact"),
        loss="sparse_categorical_crossentropy",
    )


@pytest.mark.parametrize("unit", ["shard", "example"])
def test_images_of_unknown_size_are_as_those_of_a_known_one(unit):
    x = images().astype("float32")
    y = np.arange(EXAMPLES) % 3
    batch = (x, y)
    if unit == "example":
        batch = ((x, y, np.arange(EXAMPLES)), (x[:8], y[:8]))
    known = tf.data.Dataset.from_tensors(batch)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter([batch]),
        output_signature=keras.tree.map_structure(
            lambda spec: tf.TensorSpec(
                [None if size == 6 else size for size in spec.shape],
                spec.dtype,
            ),
            known.element_spec,
        ),
    )
    found = []
    for dataset in (known, unknown):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input((None, None, 2)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.MaxPooling2D(2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
        weighting = kb.weighting.DeepBilevel(SHARDS)
        if unit == "example":
            weighting = kb.weighting.Soseleto(EXAMPLES)
        model = compiled(network, weighting)
        model.fit(dataset.repeat(), steps_per_epoch=1, verbose=0)
        found.append(network.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_all_shards_have_their_losses_from_one_call():
    model = compiled(
        keras.Sequential([keras.Input((30,)), layers.Dense(3)]), weighting()
    )
    batch = tuple(map(tf.constant, batch_of(EXAMPLES, inputs=30)))
    model.train_on_batch(*batch)
    step = tf.function(lambda: model.train_step(batch), autograph=False)
    operations = step.get_concrete_function().graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert kinds.count("SparseSoftmaxCrossEntropyWithLogits") == 1


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("judges", [1, SHARDS])
def test_factors_are_compared_with_a_weighted_sum(judges, use_bias):
    layer = layers.Dense(9, use_bias=use_bias)
    layer.build((None, 8))
    rng = np.random.default_rng(0)
    inputs, deltas = rng.normal(size=(2, SHARDS, 3, 9)).astype("float32")
    inputs = inputs[..., :8]
    factors = at_once.Factors(
        layer.trainable_variables, tf.constant(inputs), tf.constant(deltas)
    )
    assert factors.are_smaller() and not factors.are_smaller(SHARDS)
    weights = rng.normal(size=judges).astype("float32")
    rows = np.einsum("kri,kru->kiu", np.float64(inputs), deltas)
    rows = rows.reshape((SHARDS, -1))
    if use_bias:
        rows = np.concatenate([rows, deltas.sum(1)], axis=1)
    np.testing.assert_allclose(
        factors.judged_by(tf.constant(weights)),
        rows @ (weights @ rows[:judges]),
        rtol=1e-4,
        atol=1e-4 * np.abs(rows).max() ** 2,
    )
