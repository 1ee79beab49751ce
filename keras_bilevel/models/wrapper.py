"""A Keras model that overrides another one's training, and nothing else."""

import keras

from keras_bilevel import engine
from keras_bilevel.models.own_methods import OwnMethods
from keras_bilevel.models.own_methods import check_train_step
from keras_bilevel.models.own_methods import is_own


class Wrapper(OwnMethods, keras.Model):
    """Shares the weights, the outputs and the dtype of an inner network.

    Args:
        model: `keras.Model`, the network to train. It stays usable on its
            own as `wrapper.model`.
        **kwargs: `name` and the like, as of `keras.Model`.
    """

    def __init__(self, model, **kwargs):
        _check_backend()
        if not isinstance(model, keras.Model):
            raise ValueError(
                "Invalid value for argument `model`. Expected a `keras.Model`. "
                f"Received: model={model} (of type {type(model)})"
            )
        check_train_step(model)
        # `compile` looks for mixed_float16 in the wrapper's own policy.
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        self.model = model
        self.built = model.built

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def _judged(self):
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
        # Not those of another network that a subclass may hold.
        losses = self.model.losses
        if not engine.are_data_only():
            return losses
        # Keras lists the weight regularisers last, one each.
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


def _check_backend():
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            "Expected the TensorFlow backend of Keras. Received: "
            f"backend={backend!r}. Set the environment variable "
            "KERAS_BACKEND=tensorflow before `import keras`."
        )
