"""A Keras model that replaces the training of another one, nothing else.

If the inner model overrides `compute_loss`, `compute_metrics`, `test_step` or
`predict_step`, its own methods are used. A `train_step` of its own is refused.
"""

import inspect

import keras

from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.checks import check_type

_USED = ("compute_loss", "compute_metrics", "test_step", "predict_step")


class OwnMethods:
    """Trains with a network's own loss and metrics; a mixin.

    Compiled losses take one weight for each example. If the network overrides
    one of the methods above, it shares losses, metrics and trackers with this
    model. So its methods find them compiled.
    """

    # The methods in `_USED` that the network overrides.
    _own = frozenset()

    def _evaluated(self):
        """Returns the network that `evaluate` and `predict` use.

        `None` if there are several, or none yet.
        """
        raise NotImplementedError

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        *args,
        **kwargs,
    ):
        """Compiles the model; the arguments are those of `keras.Model`."""
        super().compile(optimizer, loss, loss_weights, *args, **kwargs)
        engine.compile_losses(self, loss, loss_weights)
        network = self._evaluated()
        if network is None:
            return
        self._own = frozenset(n for n in _USED if is_own(network, n))
        _check_own_steps(network, self._own)
        if self._own:
            keras_private.share_compiled(self, network)

    def compile_from_config(self, config):
        # Keras requires this of models that override `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        return self._evaluated().metrics if self._own else super().metrics

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if "compute_loss" not in self._own:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        network = self._evaluated()
        parameters = inspect.signature(network.compute_loss).parameters
        arguments = {
            "x": x,
            "y": y,
            "y_pred": y_pred,
            "sample_weight": sample_weight,
        }
        if "training" in parameters:
            arguments["training"] = training
        with keras_private.giving_losses(
            network, keras_private.given_losses(self)
        ):
            if not engine.THREAD.data_only:
                return network.compute_loss(**arguments)
            with engine.without_regularizers(network):
                return network.compute_loss(**arguments)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if "compute_metrics" not in self._own:
            sample_weight = engine.aligned_with_masks(sample_weight, y_pred)
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return self._evaluated().compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, *args):
        if "test_step" not in self._own:
            return super().test_step(*args)
        return self._evaluated().test_step(*args)

    def predict_step(self, *args):
        if "predict_step" not in self._own:
            return super().predict_step(*args)
        return self._evaluated().predict_step(*args)


class Wrapper(OwnMethods, keras.Model):
    """Wraps a network, and shares its weights, outputs and dtype.

    Args:
        model: `keras.Model`, the network to train. It stays usable on its
            own as `wrapper.model`.
        **kwargs: `name` and the like, as of `keras.Model`.
    """

    def __init__(self, model, **kwargs):
        check_type("model", model, keras.Model)
        _check_train_step(model)
        # `compile` looks for mixed_float16 in the wrapper's own policy.
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        self.model = model
        self.built = model.built

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def _evaluated(self):
        return getattr(self, "model", None)

    def has_own_loss(self):
        """Returns whether the network overrides `compute_loss`."""
        return is_own(self.model, "compute_loss")

    def build(self, input_shape):
        """Builds the inner network for inputs of this (nested) shape."""
        if not self.model.built:
            self.build_on(
                keras.tree.map_shape_structure(
                    lambda shape: keras.KerasTensor(shape), input_shape
                )
            )
        self.built = True

    def build_on(self, x):
        """Builds the inner network for inputs of the shapes and types of `x`.

        Args:
            x: Tensor or structure of tensors of shape `(batch_size, ...)`.
        """
        self.model(
            keras.tree.map_structure(
                lambda t: keras.KerasTensor(
                    (None, *t.shape[1:]),
                    keras.backend.standardize_dtype(t.dtype),
                ),
                x,
            )
        )
        self.built = True

    @property
    def losses(self):
        given = keras_private.given_losses(self)
        if given:
            return given
        # Without those of another network that a subclass may hold.
        losses = self.model.losses
        if not engine.THREAD.data_only:
            return losses
        # Keras lists the weight regularisers last, one per variable.
        regularized = sum(
            v.regularizer is not None for v in self.model.trainable_variables
        )
        return losses[: len(losses) - regularized]

    @property
    def output_names(self):
        # Dict losses and metrics are matched by these names.
        return self.model.output_names

    def summary(self, *args, **kwargs):
        self.model.summary(*args, **kwargs)

    def export(self, *args, **kwargs):
        self.model.export(*args, **kwargs)

    def get_config(self):
        return {**super().get_config(), **self._networks_config()}

    def _networks_config(self):
        return {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**deserialized(config, custom_objects))


def deserialized(config, custom_objects=None):
    """Returns a config with objects in place of their configs."""
    return {
        key: keras.saving.deserialize_keras_object(value, custom_objects)
        for key, value in config.items()
    }


def is_own(network, name):
    """Returns whether a network overrides a method of `keras.Model`."""
    inherited = getattr(keras.Model, name)
    return getattr(type(network), name) is not inherited or (
        name in vars(network)
    )


def _check_train_step(network):
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


def _check_own_steps(network, own):
    """Raises `ValueError` for steps that JAX would give the wrong state."""
    steps = sorted(own & {"test_step", "predict_step"})
    if steps and keras.backend.backend() == "jax":
        raise ValueError(
            "Expected a network with the `test_step` and the `predict_step` of "
            "`keras.Model` under JAX, which hands them the state of the model "
            f"around it. Received: {type(network).__name__}, which overrides "
            f"{steps}. Put its loss into `compute_loss` and its metrics into "
            "`compute_metrics`, or set KERAS_BACKEND=tensorflow."
        )


def check_trains(model):
    """Raises `ValueError` for a model that cannot be trained here.

    Args:
        model: A `BilevelModel` or a `SelectionModel`.
    """
    if not model.compiled:
        raise ValueError("You must call `compile()` before `fit()`.")
    for loss in keras.tree.flatten(model.loss):
        if getattr(loss, "reduction", "sum") in (None, "none"):
            raise ValueError(
                "Expected a loss that is one number for a batch. Received: "
                f"{type(loss).__name__} with reduction={loss.reduction!r}. "
                "Leave `reduction` at its default, the mean."
            )
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
    engine.check_replicated(model)
    replaced = [
        v.path
        for v in model.trainable_variables
        if getattr(v, "overwrite_with_gradient", False)
    ]
    if replaced:
        raise ValueError(
            "Expected gradients that can be compared and weighed. Received: "
            f"variables that take the place of theirs, {replaced}, as of "
            'layers with `quantize("float8")`. Train without.'
        )
    if model.built and not model.trainable_variables:
        raise ValueError(
            "Expected a network with trainable weights. Received: one "
            "whose weights are all frozen. Set `trainable = True` on the "
            "network, or on the layers to train, before `compile`."
        )
