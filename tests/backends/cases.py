"""Runs that give the same numbers under every backend of Keras.

Weights come from NumPy, and dropout's masks from the state of its seeds: random
numbers differ between backends. `python -m tests.backends.cases GROUP FILE`
writes the numbers of a group of runs under the backend of `KERAS_BACKEND`.
"""

import sys

import keras
import numpy as np
from keras import layers
from keras import ops

import keras_bilevel as kb

CLASSES = 3
SIZE = 96
CASES = {}


def case(function):
    """Adds a run: a function that returns a dict of arrays."""
    group = function.__name__.split("_")[0]
    CASES.setdefault(group, {})[function.__name__] = function
    return function


def images(bad=False):
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=SIZE)
    x = rng.normal(size=(SIZE, 6, 6, 2)).astype("float32")
    x += 0.5 * y[:, None, None, None]
    y = np.where(rng.random(SIZE) < 0.3, (y + 1) % CLASSES, y)
    if bad:
        x[::24] = np.nan
    return x, y


def set_weights(network, seed=0):
    """Gives a network weights from NumPy."""
    rng = np.random.default_rng(seed)
    for variable in network.trainable_variables:
        scale = 0.5 / np.sqrt(np.prod(variable.shape[:-1]))
        value = scale * rng.normal(size=variable.shape)
        if len(variable.shape) == 1:
            value = value + (variable.name == "gamma")
        variable.assign(value)
    return network


def cnn(norm=True, seed=0, **head):
    rest = [layers.BatchNormalization(momentum=0.8)] if norm else []
    return set_weights(
        keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(4, 3, activation="relu"),
                *rest,
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(8, activation="tanh"),
                layers.Dense(CLASSES, **head),
            ]
        ),
        seed,
    )


def loss(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(True, **kwargs)


def optimizer():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def trained(model, data, callbacks=(), epochs=2, **compiling):
    """Trains, and returns weights, logs and what `evaluate` says."""
    compiling = {
        "optimizer": optimizer(),
        "loss": loss(),
        "metrics": ["accuracy"],
        **compiling,
    }
    model.compile(**compiling)
    history = model.fit(
        data, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    found = {f"log_{k}": np.array(v) for k, v in history.history.items()}
    for i, weight in enumerate(model.get_weights()):
        found[f"weight_{i}"] = weight
    return found


def shards_of(arrays, num_shards=6, **kwargs):
    size = SIZE // 2 // num_shards
    return kb.data.stratified_batches(
        arrays, num_shards, size, seed=1, ids=True, **kwargs
    )


def weigh_shards(network, weighting=None, arrays=None, data=None, **compiling):
    weighting = weighting or kb.weighting.DeepBilevel(6)
    arrays = arrays or images()
    if data is None:
        data = shards_of(
            arrays,
            weighting.num_shards,
            num_validation_shards=weighting.num_validation_shards,
        )
    weights = kb.callbacks.WeightHistory()
    history = kb.callbacks.ExampleHistory()
    model = kb.BilevelModel(network, weighting)
    found = trained(model, data, [weights, history], **compiling)
    return {
        **found,
        "shard_weights": weights.weights,
        "scores": history.example_scores,
    }


@case
def shards_batchnorm():
    return weigh_shards(cnn())


@case
def shards_many():
    return weigh_shards(cnn(), kb.weighting.DeepBilevel(24, mu=0.0))


@case
def shards_per_layer():
    return weigh_shards(cnn(), kb.weighting.DeepBilevel(6, per_layer=True))


@keras.saving.register_keras_serializable("tests")
class SmallLoss(kb.weighting.ShardWeighting):
    statistics = ("loss",)
    num_shards = 6
    per_layer = True

    def call(self, loss):
        return ops.exp(-loss)


@case
def shards_by_loss_per_layer():
    return weigh_shards(cnn(), SmallLoss())


@case
def shards_exact():
    return weigh_shards(cnn(), kb.weighting.DeepBilevel(6, solver="exact"))


@case
def shards_not_normalized_two_judges():
    weighting = kb.weighting.DeepBilevel(
        6, num_validation_shards=2, l1_normalize=False, mu=1.0
    )
    return weigh_shards(cnn(False), weighting)


@case
def shards_bad_rows():
    return weigh_shards(cnn(), arrays=images(bad=True))


@case
def shards_weighted():
    weights = np.linspace(0.1, 2, SIZE).astype("float32")
    return weigh_shards(cnn(), arrays=(*images(), weights))


class Moving(layers.Layer):
    """A layer with a state of its own."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), trainable=False, name="seen")
        self.seen.assign(0.0)

    def call(self, x):
        y = x * (1.0 + 0.1 * ops.tanh(self.seen))
        self.seen.assign(0.9 * self.seen + ops.mean(x))
        return y


@case
def shards_own_state():
    return weigh_shards(
        set_weights(
            keras.Sequential(
                [
                    keras.Input((6, 6, 2)),
                    layers.Flatten(),
                    Moving(),
                    layers.Dense(CLASSES),
                ]
            )
        )
    )


@case
def shards_regularized():
    inputs = keras.Input((6, 6, 2))
    hidden = layers.Conv2D(4, 3, kernel_regularizer="l2")(inputs)
    hidden = layers.Activation("relu", activity_regularizer="l2")(hidden)
    outputs = layers.Dense(CLASSES)(layers.Flatten()(hidden))
    return weigh_shards(set_weights(keras.Model(inputs, outputs)))


@case
def shards_two_outputs():
    inputs = keras.Input((6, 6, 2))
    hidden = layers.Dense(8, activation="relu")(layers.Flatten()(inputs))
    network = keras.Model(
        inputs,
        {
            "a": layers.Dense(CLASSES, name="a")(hidden),
            "b": layers.Dense(1, name="b")(hidden),
        },
    )
    x, y = images()
    both = {"a": y, "b": y.astype("float32")[:, None]}
    data = shards_of((x, both), stratify_by=lambda x, y: y["a"])
    model = kb.BilevelModel(set_weights(network), kb.weighting.DeepBilevel(6))
    return trained(
        model,
        data,
        loss={"a": loss(), "b": "mse"},
        loss_weights={"a": 1.0, "b": 0.3},
        metrics={"a": "accuracy", "b": "mae"},
    )


@case
def shards_tokens():
    rng = np.random.default_rng(3)
    x = rng.integers(0, 9, size=(SIZE, 7))
    y = rng.integers(CLASSES, size=SIZE)
    network = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(9, 5, mask_zero=True),
            layers.GRU(6),
            layers.Dense(CLASSES),
        ]
    )
    return weigh_shards(set_weights(network), arrays=(x, y))


@case
def shards_adam_clipped():
    adam = keras.optimizers.AdamW(0.01, global_clipnorm=0.1, use_ema=True)
    return weigh_shards(cnn(), optimizer=adam)


@case
def shards_three_steps_at_once():
    return weigh_shards(cnn(), steps_per_execution=3)


@case
def shards_eager():
    return weigh_shards(cnn(False), run_eagerly=True)


class Masked(layers.Layer):
    """Dropout whose masks follow from its seeds in the same way everywhere."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, x, training=False):
        if not training:
            return x
        seed = ops.cast(ops.sum(self.seed_generator.next()) % 997, "int32")
        place = ops.arange(x.shape[-1], dtype="int32") * 7919
        return ops.where((place + seed * 613) % 10 < 3, 0.0, x / 0.7)


def with_dropout(seed=0):
    network = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Flatten(),
            layers.Dense(20, activation="relu"),
            Masked(),
            layers.Dense(CLASSES),
        ]
    )
    return set_weights(network, seed)


@case
def shards_dropout():
    weighting = kb.weighting.DeepBilevel(6, same_dropout=True)
    return weigh_shards(with_dropout(), weighting)


def overflown(weigh):
    """Trains at a scale that is too high at first; rounding differs.

    Args:
        weigh: Function that trains a network.
    """
    keras.config.set_dtype_policy("mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer(
        optimizer(), initial_scale=2.0**19
    )
    try:
        weigh(cnn(), optimizer=scaled, epochs=6)
    finally:
        keras.config.set_dtype_policy("float32")
    return {
        "scale": np.array(scaled.dynamic_scale),
        "steps": np.array(scaled.inner_optimizer.iterations),
    }


@case
def shards_overflow():
    return overflown(weigh_shards)


def source_and_target(bad=False, classes=CLASSES):
    x, y = images(bad)
    target_x, target_y = images()
    return kb.data.source_target_batches(
        (x, y),
        (target_x[:24], target_y[:24] % classes),
        source_size=16,
        target_size=8,
        seed=1,
    )


def weigh_examples(
    network, weighting, data=None, source_model=None, **compiling
):
    model = kb.BilevelModel(network, weighting, source_model=source_model)
    data = source_and_target() if data is None else data
    history = kb.callbacks.WeightHistory()
    found = trained(model, data, [history], **compiling)
    return {**found, "seen": history.weights}


@case
def examples_batchnorm():
    weighting = kb.weighting.Soseleto(alpha_lr=20.0)
    found = weigh_examples(cnn(), weighting)
    return {**found, "scores": weighting.example_scores}


@case
def examples_without_norm():
    return weigh_examples(cnn(False), kb.weighting.Soseleto(alpha_lr=20.0))


class OwnBackward(layers.Layer):
    """The hyperbolic tangent, with a derivative that is written by hand."""

    def call(self, x):
        @ops.custom_gradient
        def tanh(x):
            y = ops.tanh(x)

            def gradient(*args, upstream=None):
                change = args[0] if upstream is None else upstream
                return change * (1.0 - y**2)

            return y, gradient

        return tanh(x)


@case
def examples_own_backward():
    network = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Flatten(),
            layers.Dense(8),
            OwnBackward(),
            layers.Dense(CLASSES),
        ]
    )
    weighting = kb.weighting.Soseleto(alpha_lr=20.0)
    return weigh_examples(set_weights(network), weighting)


@case
def examples_weights_first():
    weighting = kb.weighting.Soseleto(alpha_lr=20.0, update_weights_first=True)
    return weigh_examples(cnn(), weighting)


@case
def examples_reweight():
    return weigh_examples(cnn(), kb.weighting.LearningToReweight())


@case
def examples_meta_weight_net():
    weighting = set_weights(kb.weighting.MetaWeightNet(5))
    rng = np.random.default_rng(0)
    for variable in weighting.variables:
        variable.assign(rng.normal(size=variable.shape))
    return weigh_examples(cnn(), weighting)


@case
def examples_bad_rows():
    data = source_and_target(bad=True)
    return weigh_examples(cnn(), kb.weighting.Soseleto(alpha_lr=20.0), data)


@case
def examples_dropout():
    return weigh_examples(with_dropout(), kb.weighting.Soseleto(alpha_lr=20.0))


@case
def examples_overflow():
    weighting = kb.weighting.Soseleto(alpha_lr=20.0)
    return overflown(
        lambda network, **options: weigh_examples(network, weighting, **options)
    )


@case
def examples_overflow_without_memory():
    """Weights of 0 would hide from a dynamic scale that it is too large."""
    return overflown(
        lambda network, **options: weigh_examples(
            network, kb.weighting.LearningToReweight(), **options
        )
    )


@case
def examples_pair():
    inputs = keras.Input((6, 6, 2))
    shared = layers.Dense(8, activation="tanh")(layers.Flatten()(inputs))
    source = keras.Model(inputs, layers.Dense(CLASSES)(shared))
    target = keras.Model(inputs, layers.Dense(2)(shared))
    set_weights(source, 1)
    set_weights(target, 2)
    return weigh_examples(
        target,
        kb.weighting.Soseleto(alpha_lr=20.0),
        source_and_target(classes=2),
        source_model=source,
    )


class OwnLoss(keras.Model):
    """A model with a loss of its own, which adds a penalty."""

    def __init__(self):
        super().__init__()
        self.network = cnn(False)

    def call(self, x):
        return self.network(x)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        value = super().compute_loss(x, y, y_pred, sample_weight)
        return value + 0.01 * ops.mean(ops.square(y_pred))


@case
def examples_own_loss():
    network = OwnLoss()
    network(images()[0][:1])
    return weigh_examples(network, kb.weighting.Soseleto(alpha_lr=20.0))


@case
def examples_regularized():
    network = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Flatten(),
            layers.Dense(8, "relu", activity_regularizer="l2"),
            layers.Dense(CLASSES, kernel_regularizer="l2"),
        ]
    )
    weighting = kb.weighting.Soseleto(alpha_lr=20.0)
    return weigh_examples(set_weights(network), weighting)


def select(rule, networks=None, arrays=None, schedule=None, **compiling):
    networks = networks or [cnn(False, 0), cnn(False, 1)][: rule.num_networks]
    model = kb.SelectionModel(
        networks, rule, schedule or kb.schedules.CoTeachingSchedule(0.4, 2)
    )
    data = kb.data.shuffled_batches(arrays or images(), 24, seed=1)
    history = kb.callbacks.SelectionHistory()
    return {
        **trained(model, data, [history], **compiling),
        "kept": history.kept,
    }


@case
def selection_co_teaching():
    return select(kb.selection.CoTeaching(), [cnn(seed=0), cnn(seed=1)])


@case
def selection_co_teaching_plus():
    return select(kb.selection.CoTeachingPlus(1))


@case
def selection_class_balanced():
    return select(kb.selection.ClassBalancedCoTeaching())


@case
def selection_decoupling():
    return select(kb.selection.Decoupling())


@case
def selection_self_paced():
    return select(kb.selection.SelfPaced(), [cnn()])


@case
def selection_early_learning():
    rule = kb.selection.EarlyLearning()
    found = select(rule, [cnn()], schedule=kb.schedules.ConstantSchedule(0.0))
    return {**found, "targets": rule.targets}


@case
def selection_bad_rows():
    return select(kb.selection.CoTeaching(), arrays=images(bad=True))


@case
def selection_weighted():
    weights = np.arange(SIZE) % 3
    arrays = (*images(), weights.astype("float32"))
    return select(kb.selection.CoTeaching(), arrays=arrays)


@case
def selection_own_loss():
    network = OwnLoss()
    network(images()[0][:1])
    return select(kb.selection.SelfPaced(), [network])


@case
def selection_dropout():
    networks = [with_dropout(0), with_dropout(1)]
    return select(kb.selection.CoTeaching(), networks)


@case
def selection_overflow():
    rule = kb.selection.SelfPaced()
    return overflown(
        lambda network, **options: select(rule, [network], **options)
    )


def main(group, path):
    found = {}
    for name, run in CASES[group].items():
        keras.utils.set_random_seed(0)
        found |= {f"{name}/{key}": value for key, value in run().items()}
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
