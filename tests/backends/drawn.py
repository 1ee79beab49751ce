"""Steps of all methods on drawn networks, for a comparison of backends.

`python -m tests.backends.drawn START FILE SEED ...` takes them under the
backend of `KERAS_BACKEND`, from the weights in START.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_bilevel as kb
from tests import differential

SHARDS = 4
DEEP = (
    {},
    {"per_layer": True},
    {"solver": "exact"},
    {"num_validation_shards": 2},
)


def start(seed):
    """Returns weights to begin with, a dict of arrays."""
    keras.utils.set_random_seed(seed)
    network = differential.Plan(seed).network()
    rng = np.random.default_rng([seed, 3])
    for variable in network.trainable_variables:
        noise = rng.normal(size=variable.shape) * 0.15
        variable.assign(variable + noise.astype("float32"))
    weights = enumerate(network.get_weights())
    return {f"{seed}/{i}": weight for i, weight in weights}


def steps(seed, begin):
    """Takes a step of each method, and returns what came of them, a dict."""
    plan, found = differential.Plan(seed), {}
    network = plan.network()
    if any(_differs_between_backends(layer) for layer in network.layers):
        return found
    weights = [begin[f"{seed}/{i}"] for i in range(len(network.weights))]
    end = 2 + plan.has_sample_weights
    batch = plan.batch(network, differential.BATCH, 0)[:end]
    target = plan.batch(network, differential.TARGET, 1)[:end]
    ids = np.arange(differential.BATCH)
    rule = kb.selection.SelfPaced()
    schedule = kb.schedules.ConstantSchedule(0.5)
    options = DEEP[seed // 2 % len(DEEP)]
    methods = {
        "shards": (kb.weighting.DeepBilevel(SHARDS, **options), batch),
        "examples": (kb.weighting.Soseleto(32), ((*batch, ids), target)),
        "selection": (None, batch),
    }
    for name, (weighting, data) in methods.items():
        network.set_weights(weights)
        if weighting is None:
            model = kb.SelectionModel([network], rule, schedule)
        else:
            model = kb.BilevelModel(network, weighting)
        model.compile(keras.optimizers.SGD(1.0), **plan.losses())
        data = tf.data.Dataset.from_tensors(data)
        logs = model.fit(data, verbose=0).history
        found[f"{seed}/{name}/loss"] = np.array(logs["loss"])
        if name == "examples":
            found[f"{seed}/{name}/scores"] = weighting.example_scores
        pairs = zip(weights, network.weights, strict=True)
        for i, (before, variable) in enumerate(pairs):
            if "seed" not in variable.name:
                found[f"{seed}/{name}/{i}"] = variable.numpy() - before
    return found


def _differs_between_backends(layer):
    """Returns whether a layer of Keras itself fails or differs under JAX."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.MultiHeadAttention):
        # It wants values as wide as keys.
        return config["value_dim"] not in (None, config["key_dim"])
    # TensorFlow takes bicubic weights from a table: 1e-3 apart.
    return config.get("interpolation") == "bicubic"


if __name__ == "__main__":
    begin = dict(np.load(sys.argv[1]))
    np.savez(
        sys.argv[2],
        **{
            key: value
            for seed in map(int, sys.argv[3:])
            for key, value in steps(seed, begin).items()
        },
    )
