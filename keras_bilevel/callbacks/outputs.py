"""Picks the output that a callback watches, of a model with several."""

from keras_bilevel import keras_private
from keras_bilevel.checks import wrong


def observed_network(model):
    """Returns the network whose compiled losses belong to observed steps.

    Args:
        model: The `keras.Model` that is in `fit`.
    """
    get_source = getattr(model, "get_source", None)
    return model if get_source is None else get_source()


def check(model, output, watcher):
    """Raises `ValueError` as `pick` does, where outputs are known already.

    Args:
        model: The `keras.Model` that is in `fit`.
        output: As for `pick`.
        watcher: The callback.
    """
    network = observed_network(model)
    compiled = keras_private.compiled_losses(network)
    if compiled is None and network is model:
        pick([], output, watcher)
    elif compiled is not None and compiled.built:
        pick(keras_private.loss_entries(compiled), output, watcher)


def pick(outputs, output, watcher):
    """Returns one of the outputs of a model.

    Args:
        outputs: List of objects with a `name` and a `path`, such as
            `engine.compiled_losses.OutputLoss`.
        output: Name or index of the output, or `None` for the only one.
        watcher: The callback, for messages.
    """
    name = type(watcher).__name__
    if not outputs:
        raise ValueError(
            f"Expected a model with a compiled loss for `{name}`: it tells "
            "what predictions mean. Received: a model without. Pass `loss` to "
            "`compile`."
        )
    names = list(dict.fromkeys(entry.name for entry in outputs))
    if output is None and len(names) == 1:
        return outputs[0]
    for entry in outputs:
        if output is not None and output in (entry.name, *entry.path[-1:]):
            return entry
    raise wrong(
        f"argument `output` of `{name}`",
        f"the name or the index of one of the outputs with a loss, {names}",
        f"output={output!r}",
        f"Pass for instance `output={names[0]!r}`.",
    )
