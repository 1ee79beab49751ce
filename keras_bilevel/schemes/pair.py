"""Saves two networks that share layers as one joint network."""

import keras

from keras_bilevel import keras_private


def is_functional(network):
    """Returns whether a network is a graph from inputs to outputs."""
    return bool(
        getattr(network, "inputs", None) and getattr(network, "outputs", None)
    )


def _parts(network):
    """Returns the layers and other operations of a graph."""
    return getattr(network, "operations", network.layers)


def _is_only_graph(network):
    """Returns whether a network is a graph, and no subclass with more to it."""
    kinds = "Functional", "Sequential"
    return is_functional(network) and type(network).__name__ in kinds


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
    if not (_is_only_graph(target) and _is_only_graph(source)):
        return
    known = {part.name: part for part in _parts(target)}
    twice = [
        part.name
        for part in _parts(source)
        if known.get(part.name, part) is not part
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
    if not (_is_only_graph(target) and _is_only_graph(source)):
        raise _not_stored(
            "Functional or built Sequential models",
            "subclassed ones share",
            target,
            source,
        )
    tensors = {"inputs": [], "outputs": []}
    places = {
        f"{name}_{end}": keras.tree.map_structure(
            lambda t, known=tensors[end]: _place(t, known),
            keras_private.structure_of(network, end),
        )
        for name, network in (("target", target), ("source", source))
        for end in tensors
    }
    joint = keras.Model(**tensors)
    nested = {
        id(inner)
        for layer in joint.layers
        for inner in keras_private.all_layers(layer, include_self=False)
    }
    if any(id(layer) in nested for layer in joint.layers):
        raise _not_stored(
            "two models side by side",
            "one has of the other, which is a layer of it,",
            target,
            source,
        )
    serialize = keras.saving.serialize_keras_object
    return {
        "joint": serialize(joint),
        "places": places,
        "names": [target.name, source.name],
        "kinds": [type(network).__name__ for network in (target, source)],
        "dtypes": [serialize(n.dtype_policy) for n in (target, source)],
    }


def _not_stored(expected, what, target, source):
    return ValueError(
        f"Expected {expected} as `model` and `source_model`: what {what} "
        f"cannot be stored. Received: model={target}, source_model={source}. "
        "Use `save_weights` and build the models anew, or write them as "
        "`keras.Model(inputs, outputs)`."
    )


def split(config):
    """Returns the target and the source network from their config.

    Args:
        config: What `get_config` returned, with the joint network deserialized.
    """
    joint = config["joint"]
    known = {"inputs": joint.inputs, "outputs": joint.outputs}
    networks = []
    for part, name, kind, dtype in zip(
        ("target", "source"),
        config["names"],
        # Version 0.1 saved two Functional models.
        config.get("kinds", ["Functional"] * 2),
        config.get("dtypes", [None] * 2),
    ):
        tensors = {
            end: keras.tree.map_structure(
                lambda place, known=known[end]: known[place],
                config["places"][f"{part}_{end}"],
            )
            for end in known
        }
        network = keras.Model(**tensors, name=name)
        if kind == "Sequential":
            network = keras.Sequential(network.layers, name=name)
        if dtype is not None:
            network.dtype_policy = dtype
        networks.append(network)
    return networks


def _place(tensor, known):
    """Returns the position of a tensor in a list, and appends a new one."""
    for place, other in enumerate(known):
        if other is tensor:
            return place
    known.append(tensor)
    return len(known) - 1
