"""Network state that a forward pass changes: statistics and seeds."""

import tensorflow as tf


def moving_statistics(model):
    """Returns the float variables that a forward pass may update.

    They are BatchNorm's moving averages, their kin in users' own layers, and
    the per-output loss trackers. Weights of frozen layers are not among them.
    """
    variables = [
        variable
        for layer in model._flatten_layers()
        for variable in layer._non_trainable_variables
        if "float" in variable.dtype
    ]
    if model._compile_loss is not None:
        for metric in model._compile_loss.metrics:
            variables += metric.variables
    return variables


def seed_states(model):
    """Returns the state variables of the network's seed generators."""
    generators = {
        id(generator): generator
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
    }
    return [generator.state for generator in generators.values()]


def read(variables):
    """Returns copies of the variables' values."""
    return [tf.identity(variable.value) for variable in variables]


def write(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def restore_unless(healthy, variables, values):
    """Restores `values` where a forward pass spoiled the variables.

    Args:
        healthy: Boolean scalar, `False` to restore everything.
        variables: List of `keras.Variable`.
        values: List of tensors, the variables' values before the pass.
    """
    for variable, value in zip(variables, values):
        good = healthy & tf.math.is_finite(variable.value)
        variable.assign(tf.where(good, variable.value, value))
