"""What the tests of models share."""

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb


class Recorder:
    """An observer that keeps what a step has shown, for eager steps."""

    variables = ()

    def observe(self, step):
        self.step = step


def tanh_network(inputs=5, hidden=7, classes=3, **kwargs):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(hidden, activation="tanh", **kwargs),
            keras.layers.Dense(classes),
        ]
    )


def compiled(network, weighting=None, optimizer=None, **kwargs):
    kwargs.setdefault(
        "loss", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model = kb.BilevelModel(
        network, weighting or kb.weighting.DeepBilevel(num_shards=4)
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1), **kwargs)
    return model


def train_step(model, *batch):
    """Runs one eager training step and returns its `Step`."""
    recorder = Recorder()
    model._observers = [recorder]
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    if keras.backend.backend() == "jax":
        _train_with_state(model, batch)
    else:
        model.train_step(batch)
    return recorder.step


def _train_with_state(model, batch):
    model.build_on_first_batch(None, batch)
    model.make_train_function()  # Creates what a step would create.
    groups = model._groups()
    state = [[v.value for v in group] for group in groups]
    _, values = model.train_step(state, batch)
    for variable, value in zip(sum(groups, []), sum(values, [])):
        variable.assign(value)


def batch_of(num_examples=32, inputs=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, inputs)).astype("float32")
    return x, rng.integers(0, classes, num_examples)


def batched(*batch, repeat=1):
    """Returns a dataset that yields the whole batch, `repeat` times."""
    return tf.data.Dataset.from_tensors(batch).repeat(repeat)


def values(variables):
    return [v.numpy() for v in variables]
