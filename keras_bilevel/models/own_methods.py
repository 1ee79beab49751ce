"""What a network does in its own way, and what it must leave to this package.

A subclass of `keras.Model` may override how its loss and metrics are computed
and what a step of `evaluate` or `predict` does: that is used. How it trains is
what this package is for.
"""

import inspect

import keras

from keras_bilevel import keras_private
from keras_bilevel.engine import are_data_only
from keras_bilevel.engine import compile_losses
from keras_bilevel.engine import without_regularizers

_USED = ("compute_loss", "compute_metrics", "test_step", "predict_step")


def is_own(network, name):
    """Returns whether a network overrides a method of `keras.Model`."""
    inherited = getattr(keras.Model, name)
    return getattr(type(network), name) is not inherited or (
        name in vars(network)
    )


def check_train_step(network):
    """Raises `ValueError` for a network that trains in its own way."""
    if is_own(network, "train_step"):
        raise ValueError(
            "Expected a network that trains as `keras.Model` does: how it "
            "trains is what this model replaces. Received: "
            f"{type(network).__name__}, which overrides `train_step`. Put its "
            "loss into `compute_loss(x, y, y_pred, sample_weight)` and its "
            "metrics into `compute_metrics`, which are used, and remove "
            "`train_step`."
        )


def check_stateless(network):
    """Raises `ValueError` for layers that go on from batch to batch."""
    found = [
        f"`{layer.name}` ({type(layer).__name__})"
        for layer in keras_private.all_layers(network)
        if getattr(layer, "stateful", False)
    ]
    if found:
        raise ValueError(
            "Expected layers that begin anew with each batch: examples are "
            "shuffled, cut into shards or picked, so that a row does not go on "
            f"in the next batch. Received: {', '.join(found)} with "
            "`stateful=True`. Pass `stateful=False`."
        )


def check_accumulation(model):
    """Raises `ValueError` for gradients summed over steps on replicas."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    steps = optimizer.gradient_accumulation_steps
    if steps and model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Expected an optimizer without `gradient_accumulation_steps` under "
            "several replicas: Keras applies it inside of a condition, where "
            "replicas cannot wait for one another. Received: "
            f"gradient_accumulation_steps={steps}. Take larger batches, or one "
            "replica."
        )


class OwnMethods:
    """Trains with a network's own loss and metrics; a mixin.

    Compiled losses take one weight for each example. Where the network has
    methods of its own, it shares losses, metrics and trackers with this model,
    so that its methods find what `compile` was given.
    """

    def _judged(self):
        """Returns the network that `evaluate` and `predict` are about.

        `None` where there is more than one, or none yet.
        """
        raise NotImplementedError

    def _own(self, *names):
        """Returns that network where it has one of these methods itself."""
        network = self._judged()
        if network is None or not any(is_own(network, n) for n in names):
            return None
        return network

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs
    ):
        """Compiles the model; the arguments are those of `keras.Model`."""
        super().compile(optimizer, loss, loss_weights, **kwargs)
        compile_losses(self, loss, loss_weights)
        network = self._own(*_USED)
        if network is not None:
            keras_private.share_compiled(self, network)

    def _check_networks_train(self):
        """Raises `ValueError` for networks that cannot be trained here."""
        check_stateless(self)
        check_accumulation(self)
        if self.built and not self.trainable_variables:
            raise ValueError(
                "Expected a network with trainable weights. Received: one "
                "whose weights are all frozen. Set `trainable = True` on the "
                "network, or on the layers to train, before `compile`."
            )

    def _build_optimizer(self, *calls):
        """Builds the optimizer, once all variables are there.

        Args:
            *calls: Tuples of a network and a batch of its inputs.
        """
        if self.optimizer.built:
            return
        if self.run_eagerly:
            # Some layers build parts of theirs only when they really run.
            for network, x in calls:
                network(x, training=False)
        self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config):
        # Keras leaves this to models that override `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        network = self._own(*_USED)
        return super().metrics if network is None else network.metrics

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        network = self._own("compute_loss")
        if network is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        parameters = inspect.signature(network.compute_loss).parameters
        mode = {"training": training} if "training" in parameters else {}
        arguments = {
            "x": x,
            "y": y,
            "y_pred": y_pred,
            "sample_weight": sample_weight,
            **mode,
        }
        if not are_data_only():
            return network.compute_loss(**arguments)
        with without_regularizers(network):
            return network.compute_loss(**arguments)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        network = self._own("compute_metrics")
        if network is None:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return network.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, data):
        network = self._own("test_step")
        if network is None:
            return super().test_step(data)
        return network.test_step(data)

    def predict_step(self, data):
        network = self._own("predict_step")
        if network is None:
            return super().predict_step(data)
        return network.predict_step(data)
