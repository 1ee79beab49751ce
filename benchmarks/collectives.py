"""Which bytes cross replicas in a training step, counted in its graph."""

import tensorflow as tf


def of_step(model, strategy, batch):
    """Returns the collective ops of all that `fit` does in a step.

    Returns:
        List of pairs of an op's type and the bytes that it is given, one for
        each replica.
    """
    shares = ready(model, strategy, batch)
    step = tf.function(
        lambda shares: model.train_function([shares]), autograph=False
    )
    return _in(step.get_concrete_function(shares).graph)


def ready(model, strategy, batch):
    """Makes a model ready for its first step and splits a batch for it."""
    dataset = tf.data.Dataset.from_tensors(batch)
    model._maybe_symbolic_build(data_batch=next(iter(dataset)))
    model.make_train_function()
    return next(iter(strategy.experimental_distribute_dataset(dataset)))


def _in(graph):
    """Looks into a graph and the functions that it calls."""
    found = []
    for op in graph.get_operations():
        if op.type.startswith("Collective"):
            found.append((op.type, _bytes_of(op.inputs[0])))
        for name in _called(op):
            inner = _in(graph._get_function(name).graph)
            if inner and op.type in ("While", "StatelessWhile"):
                raise ValueError(f"How often does {op.name} reduce?")
            found += inner
    return found


def _called(op):
    attributes = op.node_def.attr.values()
    return [a.func.name for a in attributes if a.HasField("func")]


def _bytes_of(tensor):
    # Gathering pads to the largest share; here all shares are alike.
    while not tensor.shape.is_fully_defined():
        tensor = tensor.op.inputs[0]
    return tensor.shape.num_elements() * tensor.dtype.size
