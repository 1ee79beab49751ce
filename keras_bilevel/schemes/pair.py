"""Saves two networks that share layers as one joint network."""

import keras

from keras_bilevel.keras_private import structure_of


def is_functional(network):
    """Returns whether a network is a graph from inputs to outputs."""
    return bool(
        getattr(network, "inputs", None) and getattr(network, "outputs", None)
    )


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


def get_config(target, source):
    """Returns the config of both networks, with their shared layers once."""
    if not (is_functional(target) and is_functional(source)):
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
