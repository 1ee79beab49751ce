"""Network state that a forward pass changes: statistics and seeds."""

import contextlib

from keras import ops

from keras_bilevel import keras_private


def moving_statistics(*networks):
    """Returns the float variables that a forward pass may update.

    They are BatchNorm's moving averages, similar variables of users' own
    layers, and the loss trackers of the outputs. Weights of frozen layers are
    not included.

    Args:
        *networks: `Wrapper`s, which may share layers.
    """
    found = {}
    for network in networks:
        for layer in keras_private.all_layers(network.model):
            for variable in keras_private.own_state_variables(layer):
                if "float" in variable.dtype:
                    found[id(variable)] = variable
        found.update((id(v), v) for v in loss_trackers(network))
    return list(found.values())


def loss_trackers(network):
    """Returns the variables of the trackers of the outputs' losses."""
    compiled = keras_private.compiled_losses(network)
    metrics = [] if compiled is None else compiled.metrics
    return [variable for metric in metrics for variable in metric.variables]


def seed_states(model):
    """Returns the state variables of the network's seed generators."""
    generators = {
        id(generator): generator
        for layer in keras_private.all_layers(model)
        for generator in keras_private.seed_generators(layer)
    }
    return [generator.state for generator in generators.values()]


def read(variables):
    """Returns copies of the variables' values."""
    return [ops.copy(variable.value) for variable in variables]


def write(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def all_finite(values):
    """Returns whether all entries of all tensors are finite, a scalar."""
    found = [ops.all(ops.isfinite(value)) for value in values]
    return ops.all(ops.stack(found)) if found else ops.array(True)


def spoiled(variables, values):
    """Returns whether a forward pass made finite state non-finite, a scalar.

    State that was not finite before, such as a mask of -inf, does not count.

    Args:
        variables: List of `keras.Variable`.
        values: List of tensors, the variables' values before the pass.
    """
    if not variables:
        return ops.array(False)
    return ops.any(
        ops.stack(
            [
                ops.any(ops.isfinite(value) & ~ops.isfinite(variable.value))
                for variable, value in zip(variables, values)
            ]
        )
    )


def restore_unless(healthy, variables, values):
    """Restores variables to their values before a pass that was not healthy.

    Args:
        healthy: Boolean scalar, `False` to restore.
        variables: List of `keras.Variable`.
        values: List of tensors, the variables' values before the pass.
    """
    for variable, value in zip(variables, values):
        variable.assign(ops.where(healthy, variable.value, value))


@contextlib.contextmanager
def finite_only(variables, only_if=True):
    """Restores all variables if the body makes one of them non-finite.

    Args:
        variables: List of `keras.Variable`.
        only_if: Boolean scalar, `False` to restore them in any case.
    """
    before = read(variables)
    yield
    healthy = only_if & ~spoiled(variables, before)
    restore_unless(healthy, variables, before)
