"""What cannot be trained here, told before the first step."""

from keras_bilevel import keras_private


def check_trains(model):
    """Raises `ValueError` for a model that cannot be trained here.

    Args:
        model: A `BilevelModel` or a `SelectionModel`.
    """
    if not model.compiled:
        raise ValueError("You must call `compile()` before `fit()`.")
    found = [
        f"`{layer.name}` ({type(layer).__name__})"
        for layer in keras_private.all_layers(model)
        if getattr(layer, "stateful", False)
    ]
    if found:
        raise ValueError(
            "Expected layers that begin anew with each batch: examples are "
            "shuffled, cut into shards or picked, so that a row does not go on "
            f"in the next batch. Received: {', '.join(found)} with "
            "`stateful=True`. Pass `stateful=False`."
        )
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    steps = optimizer.gradient_accumulation_steps
    if steps and model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Expected an optimizer without `gradient_accumulation_steps` under "
            "several replicas: Keras applies it inside of a condition, where "
            "replicas cannot wait for one another. Received: "
            f"gradient_accumulation_steps={steps}. Take larger batches, or one "
            "replica."
        )
    if model.built and not model.trainable_variables:
        raise ValueError(
            "Expected a network with trainable weights. Received: one "
            "whose weights are all frozen. Set `trainable = True` on the "
            "network, or on the layers to train, before `compile`."
        )
