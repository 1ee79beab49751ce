"""Prints how far several replicas end from one device, by variable.

Run `python -m tests.distribute.table`; a few minutes.
"""

import keras
import tensorflow as tf

import keras_bilevel as kb
from tests.distribute import runs

STEPS = 20
SIZE = STEPS * runs.SOURCE_SIZE
WEIGHTINGS = {
    "Soseleto": lambda: kb.weighting.Soseleto(SIZE, alpha_lr=5.0),
    "LearningToReweight": kb.weighting.LearningToReweight,
}


def regularized():
    return runs.network(kernel_regularizer=keras.regularizers.L2(0.01))


def run(strategy, replicas, name, optimizer):
    """Returns the outcome of some steps of the data of so many replicas."""
    if name == "DeepBilevel":
        data = runs.examples(25 * replicas * runs.SHARDS * runs.SHARD_SIZE)
        batches = runs.super_batches(strategy, replicas, data)
    else:
        batches = runs.source_target(runs.examples(SIZE))
    model = runs.compiled(
        strategy,
        WEIGHTINGS.get(name, lambda: runs.deep_bilevel(strategy, replicas)),
        optimizer,
        make=regularized,
    )
    model.fit(batches.take(STEPS), verbose=0)
    return {variable.path: variable.numpy() for variable in model.variables}


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 4,
    )
    one = tf.distribute.get_strategy()
    for name in ("DeepBilevel", *WEIGHTINGS):
        for optimizer in ("sgd", "adam"):
            for replicas in (1, 2, 4):
                found = run(runs.mirrored(replicas), replicas, name, optimizer)
                reference = run(one, replicas, name, optimizer)
                different = runs.differences(found, reference)
                print(f"{name}, {optimizer}, {replicas} replicas:")
                for path, value in different.items():
                    print(f"  {path}: {value:.0e}")


if __name__ == "__main__":
    main()
