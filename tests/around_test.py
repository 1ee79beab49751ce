"""Short examples of what users come with: tables, texts, images, outputs."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

import keras_bilevel as kb


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _wrap(net, num_shards=8, **kwargs):
    return kb.BilevelModel(net, kb.weighting.DeepBilevel(num_shards), **kwargs)


def _auroc(history, wrong):
    """Share of pairs of a wrong and a right label with the wrong one lower."""
    scores = history.example_scores
    seen = ~np.isnan(scores)
    wrong_scores = scores[seen & wrong][:, None]
    return np.mean(wrong_scores < scores[seen & ~wrong])


def test_data_frame_with_one_sigmoid_output(rng):
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 800),
            "income": rng.normal(size=800),
            "member": rng.random(800) < 0.5,
            "city": pd.Categorical(rng.choice(["a", "b", "c"], 800)),
        },
        # Rows count by position, whatever the index says.
        index=rng.permutation(800) + 5,
    )
    clean = (table["income"] + table["member"] > 0.5).astype(int)
    wrong = rng.random(800) < 0.3
    given = clean.where(~wrong, 1 - clean)

    numbers = pd.get_dummies(table)
    scale = layers.Normalization()
    scale.adapt(numbers.to_numpy("float32"))
    net = keras.Sequential(
        [
            keras.Input((6,)),
            scale,
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model = _wrap(net)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "binary_crossentropy",
        metrics=["accuracy", "auc"],
    )
    history = kb.callbacks.ExampleHistory()
    with pytest.raises(ValueError, match="text: .'city'.*get_dummies"):
        model.fit(table, given, batch_size=64, verbose=0)
    model.fit(
        numbers, given, batch_size=64, epochs=15, callbacks=[history], verbose=0
    )
    x = numbers.to_numpy("float32")
    found = model.evaluate(x, clean, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.8
    assert _auroc(history, wrong) > 0.8
    suspects = kb.report.suspects(history, given, ids=table.index)
    assert wrong[table.index.get_indexer(suspects["id"].head(50))].mean() > 0.8


def _reviews(rng):
    words = {0: ["dull", "slow", "poor"], 1: ["fine", "quick", "great"]}
    clean = rng.integers(0, 2, 400)
    texts = [
        " ".join(
            [*["the", "film", "was"][: rng.integers(1, 4)]]
            + list(rng.choice(words[label], rng.integers(1, 4)))
        )
        for label in clean
    ]
    wrong = rng.random(400) < 0.3
    return np.array(texts), clean, np.where(wrong, 1 - clean, clean), wrong


def _lstm(vocabulary_size):
    return keras.Sequential(
        [
            keras.Input((8,), dtype="int64"),
            layers.Embedding(vocabulary_size, 16, mask_zero=True),
            layers.LSTM(16),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("source", ["arrays", "map"])
def test_texts_and_a_masked_lstm(source, rng):
    texts, clean, given, wrong = _reviews(rng)
    vectorize = layers.TextVectorization(output_sequence_length=8)
    vectorize.adapt(texts)
    net = _lstm(vectorize.vocabulary_size())
    model = _wrap(net)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = kb.callbacks.ExampleHistory(len(texts))
    tokens = vectorize(texts)
    if source == "arrays":
        data = (tokens, given)
        model.fit(
            *data, batch_size=64, epochs=6, callbacks=[history], verbose=0
        )
    else:
        examples = tf.data.Dataset.from_tensor_slices((texts, given))
        examples = examples.map(lambda text, y: (vectorize(text), y)).cache()
        batches = kb.data.stratified_batches(
            examples, num_shards=8, shard_size=8, ids=True, seed=0
        )
        steps = sum(1 for _ in batches)
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
        model.fit(batches, epochs=6, callbacks=[history], verbose=0)
    found = model.evaluate(tokens, clean, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.9
    assert _auroc(history, wrong) > 0.9


@pytest.fixture
def bfloat16():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(policy)


def _norms(base):
    kind = layers.BatchNormalization
    return [layer for layer in base.layers if isinstance(layer, kind)]


def _learn_statistics(base, x):
    """Sets those of BatchNorm, as if the network had been trained."""
    for layer in _norms(base):
        layer.momentum = 0.0
    base(x, training=True)


def test_mobile_net_frozen_and_then_not(bfloat16, rng):
    x = rng.random((96, 32, 32, 3), "float32")
    y = np.arange(96) % 3
    whole = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, include_top=False, weights=None
    )
    # Its first blocks have all kinds of its layers, and trace in less time.
    base = keras.Model(
        whole.input, whole.get_layer("block_3_expand_relu").output
    )
    _learn_statistics(base, 2 * x - 1)
    base.trainable = False
    inputs = keras.Input((32, 32, 3))
    features = layers.Rescaling(2.0, offset=-1.0)(inputs)
    features = base(features)
    features = layers.GlobalAveragePooling2D()(features)
    outputs = layers.Dense(3, activation="softmax", dtype="float32")(features)
    net = keras.Model(inputs, outputs)
    assert net.compute_dtype == "bfloat16"

    model = _wrap(net, num_shards=4)

    def train(rate):
        before = base.get_weights()
        model.compile(
            keras.optimizers.SGD(rate),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        log = model.fit(x, y, batch_size=48, epochs=1, verbose=0).history
        assert np.isfinite(log["loss"]).all()
        assert np.isfinite(log["effective_shards"]).all()
        return {
            weight.path
            for weight, old, new in zip(
                base.weights, before, base.get_weights()
            )
            if np.any(new != old)
        }

    head = net.layers[-1].get_weights()
    assert not train(0.1)
    assert np.any(net.layers[-1].get_weights()[0] != head[0])
    base.trainable = True
    # `base(features, training=False)` would not do: `fit` of Keras says True.
    for layer in _norms(base):
        layer.trainable = False
    moved = train(0.1)
    assert len(moved) > 0.8 * len(base.trainable_weights)
    assert not moved & {weight.path for weight in base.non_trainable_weights}


@pytest.fixture
def two_outputs(rng):
    inputs = keras.Input((6,))
    hidden = layers.Dense(32, activation="relu")(inputs)
    net = keras.Model(
        inputs,
        {
            "kind": layers.Dense(3, name="kind")(hidden),
            "size": layers.Dense(1, name="size")(hidden),
        },
    )
    x = rng.normal(size=(600, 6)).astype("float32")
    kind = np.argmax(x[:, :3], axis=1)
    wrong = rng.random(600) < 0.3
    given = np.where(wrong, (kind + 1) % 3, kind)
    return net, x, {"kind": given, "size": x[:, 3:4]}, kind, wrong


def test_several_outputs_with_losses_by_name(two_outputs):
    net, x, y, kind, wrong = two_outputs
    model = _wrap(net, stratify_by=lambda x, y: y["kind"])
    model.compile(
        keras.optimizers.SGD(0.02, momentum=0.9),
        loss={
            "kind": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
            "size": "mse",
        },
        loss_weights={"kind": 1.0, "size": 0.5},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    history = kb.callbacks.ExampleHistory(output="kind")
    log = model.fit(
        x, y, batch_size=64, epochs=20, callbacks=[history], verbose=0
    ).history
    assert {"loss", "kind_loss", "size_loss", "kind_accuracy"} <= log.keys()
    assert _auroc(history, wrong) > 0.8
    assert log["size_mae"][-1] < log["size_mae"][0]
    found = model.evaluate(x, {**y, "kind": kind}, verbose=0, return_dict=True)
    assert found["kind_accuracy"] > 0.75
    assert len(kb.report.suspects(history, y["kind"])) == 600


def test_several_outputs_need_something_to_stratify_by(two_outputs):
    net, x, y, _, _ = two_outputs
    model = _wrap(net)
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("sgd", loss=losses)
    with pytest.raises(ValueError, match="stratify_by"):
        model.fit(x, y, batch_size=64, verbose=0)


def test_imbalanced_classes_with_class_weight(rng):
    y = (np.arange(960) % 12 == 0).astype(int)
    x = rng.normal(size=(960, 2)).astype("float32")
    x[:, 0] += 1.5 * y

    def recall(**kwargs):
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
        model = _wrap(net)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        model.fit(x, y, batch_size=96, epochs=15, verbose=0, **kwargs)
        found = model.predict(x, verbose=0).argmax(axis=1)
        return np.mean(found[y == 1] == 1)

    plain, weighted = recall(), recall(class_weight={0: 1.0, 1: 11.0})
    assert plain < 0.4
    assert weighted > 0.6


def test_a_thousand_classes_are_rare_ones(rng):
    y = rng.permutation(np.arange(5000) % 1000)
    x = rng.normal(size=(5000, 4)).astype("float32")

    def compiled(**kwargs):
        net = keras.Sequential([keras.Input((4,)), layers.Dense(1000)])
        model = _wrap(net, **kwargs)
        model.compile(
            "sgd",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    expected = r"fewer training examples than the 8.* and 980 more.*rare="
    history = kb.callbacks.ExampleHistory()
    with pytest.warns(UserWarning, match=expected):
        compiled().fit(x, y, batch_size=256, callbacks=[history], verbose=0)
    # A tuple of each class an epoch, filled by repeating its 5 examples.
    assert np.isfinite(history.example_scores).mean() > 0.95
    with pytest.raises(ValueError, match="stratify_by"):
        compiled(rare="error").fit(x, y, batch_size=256, verbose=0)
    # Without groups nothing is rare.
    compiled(stratify_by=None).fit(x, y, batch_size=256, verbose=0)


def _words(rng):
    """Sequences of 12 words; class 1 where words below 10 prevail."""
    x = rng.integers(0, 20, (320, 12))
    clean = (np.mean(x < 10, axis=1) > 0.5).astype("int64")
    wrong = rng.random(320) < 0.2
    return x, np.where(wrong, 1 - clean, clean), wrong


def _fit_low_rank(net, x, y):
    """Trains a network with LoRA; all but that and the head stays."""
    frozen = [np.array(v) for v in net.non_trainable_variables]
    model = _wrap(net)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = [np.array(v) for v in net.trainable_variables]
    history = kb.callbacks.ExampleHistory()
    model.fit(x, y, batch_size=64, epochs=8, verbose=0, callbacks=[history])
    for old, new in zip(frozen, net.non_trainable_variables):
        if "float" in str(new.dtype):  # Not the seeds of Dropout.
            np.testing.assert_array_equal(old, new)
    for old, new in zip(before, net.trainable_variables):
        assert np.abs(old - new).max() > 0
    return history


def test_attention_with_low_rank_adapters(rng):
    x, y, wrong = _words(rng)
    inputs = keras.Input((12,), dtype="int32")
    embedded = layers.Embedding(20, 16)
    attention = layers.MultiHeadAttention(2, 8)
    hidden = layers.Dense(32, activation="relu")
    features = embedded(inputs)
    features = layers.LayerNormalization()(
        features + attention(features, features)
    )
    features = layers.GlobalAveragePooling1D()(hidden(features))
    base = keras.Model(inputs, features)
    base.trainable = False
    net = keras.Sequential([base, layers.Dense(2)])
    net.build((None, 12))
    base.trainable = True
    for layer in base.layers:
        layer.trainable = layer is hidden
    hidden.enable_lora(4)
    # Two low-rank factors, a bias, and kernel and bias of the head.
    assert len(net.trainable_variables) == 5
    history = _fit_low_rank(net, x, y)
    assert _auroc(history, wrong) > 0.7


def test_a_backbone_of_keras_hub_with_low_rank_adapters(rng):
    keras_hub = pytest.importorskip(
        "keras_hub", reason="keras-hub is not installed"
    )
    x, y, _ = _words(rng)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=12,
    )
    backbone.enable_lora(4)
    outputs = layers.Dense(2)(backbone.output["sequence_output"][:, 0])
    net = keras.Model(backbone.input, outputs)
    inputs = {
        "token_ids": x,
        "padding_mask": np.ones_like(x),
        "segment_ids": np.zeros_like(x),
    }
    history = _fit_low_rank(net, inputs, y)
    assert not np.isnan(history.example_scores).all()
