"""Saves two networks that share layers as one joint network."""

import keras

from keras_bilevel.keras_private import structure_of


def is_functional(network):
    """Returns whether a network is a graph from inputs to outputs."""
    return bool(
        getattr(network, "inputs", None) and getattr(network, "outputs", None)
    )


def is_only_graph(network):
    """Returns whether a network is a graph, and no subclass with more to it."""
    kinds = "Functional", "Sequential"
    return is_functional(network) and type(network).__name__ in kinds


def normalized(network):
    """Returns a graph of Keras as a Functional model, to be saved jointly."""
    if not is_only_graph(network):
        return network
    inputs, outputs = ends(network)
    return keras.Model(inputs, outputs, name=network.name)


def ends(network):
    """Returns inputs and outputs of a network in the user's structure."""
    return structure_of(network, "inputs"), structure_of(network, "outputs")


def check_shared(target, source):
    """Raises `ValueError` where two built networks share no weights."""
    of_target = {id(v) for v in target.trainable_variables}
    if not any(id(v) in of_target for v in source.trainable_variables):
        raise ValueError(
            "Expected `model` and `source_model` to share trainable layers: "
            "the target can judge source examples only by what both use. "
            "Received: two models without a trainable variable in common. "
            "Build both from the same layer objects; a clone has weights of "
            "its own."
        )


def check_names(target, source):
    """Raises `ValueError` for layers of one name, which cannot be saved."""
    if not (is_only_graph(target) and is_only_graph(source)):
        return
    known = {operation.name: operation for operation in target.operations}
    twice = [
        operation.name
        for operation in source.operations
        if known.get(operation.name, operation) is not operation
    ]
    if twice:
        raise ValueError(
            "Expected layers of different names in `model` and `source_model`, "
            "which are saved as one network. Received: two layers named "
            f"{', '.join(map(repr, twice))}. Pass another `name` to one of "
            "them."
        )


def get_config(target, source):
    """Returns the config of both networks, with their shared layers once."""
    if not (is_only_graph(target) and is_only_graph(source)):
        raise ValueError(
            "Expected Functional or built Sequential models as `model` and "
            "`source_model`: what two subclassed models share cannot be "
            f"stored. Received: model={target}, source_model={source}. Use "
            "`save_weights` and build the models anew, or write them as "
            "`keras.Model(inputs, outputs)`."
        )
    tensors = {"inputs": [], "outputs": []}
    places = {
        f"{name}_{end}": keras.tree.map_structure(
            lambda t, known=tensors[end]: _place(t, known),
            structure_of(network, end),
        )
        for name, network in (("target", target), ("source", source))
        for end in tensors
    }
    joint = keras.Model(**tensors)
    return {
        "joint": keras.saving.serialize_keras_object(joint),
        "places": places,
        "names": [target.name, source.name],
    }


def split(config):
    """Returns the target and the source network from their config.

    Args:
        config: What `get_config` returned, with the joint network deserialized.
    """
    joint = config["joint"]
    known = {"inputs": joint.inputs, "outputs": joint.outputs}
    return tuple(
        keras.Model(
            **{
                end: keras.tree.map_structure(
                    lambda place, known=known[end]: known[place],
                    config["places"][f"{part}_{end}"],
                )
                for end in known
            },
            name=name,
        )
        for part, name in zip(("target", "source"), config["names"])
    )


def _place(tensor, known):
    """Returns the position of a tensor in a list, and appends a new one."""
    for place, other in enumerate(known):
        if other is tensor:
            return place
    known.append(tensor)
    return len(known) - 1
