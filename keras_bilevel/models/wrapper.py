"""A Keras model that trains another one and is that other one otherwise."""

import keras


class Wrapper(keras.Model):
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
        # `compile` looks for mixed_float16 in the wrapper's own policy.
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        self.model = model
        self.built = model.built

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

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
    def output_names(self):
        # Dict losses and metrics are matched by these names.
        return self.model.output_names

    def summary(self, *args, **kwargs):
        self.model.summary(*args, **kwargs)

    def export(self, *args, **kwargs):
        self.model.export(*args, **kwargs)

    def get_config(self):
        config = super().get_config()
        config["model"] = keras.saving.serialize_keras_object(self.model)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(
            **{
                key: keras.saving.deserialize_keras_object(
                    value, custom_objects
                )
                for key, value in config.items()
            }
        )


def _check_backend():
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            "Expected the TensorFlow backend of Keras. Received: "
            f"backend={backend!r}. Set the environment variable "
            "KERAS_BACKEND=tensorflow before `import keras`."
        )
