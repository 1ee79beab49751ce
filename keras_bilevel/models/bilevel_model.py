"""The model of all weightings, of shards and of examples."""

import keras

from keras_bilevel.checks import check_choice
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.labels import check_stratify_by_of_model
from keras_bilevel.models.fitting import Fitting
from keras_bilevel.models.wrapper import Wrapper
from keras_bilevel.models.wrapper import deserialized
from keras_bilevel.schemes import Examples
from keras_bilevel.schemes import Shards
from keras_bilevel.schemes import pair
from keras_bilevel.weighting.get import get as get_weighting
from keras_bilevel.weighting.weighting import ShardWeighting


@keras.saving.register_keras_serializable("keras_bilevel")
class BilevelModel(Fitting, Wrapper):
    """Trains a Keras model on weighted shards or weighted source examples.

    From arrays, `fit` builds stratified super-batches. `batch_size` is the
    number of examples in all shards of a step, on all replicas. It has to be a
    multiple of `num_replicas * num_shards`. Fewer than that many examples of
    each class, and then fewer than `batch_size` examples, are left over. They
    differ from epoch to epoch. A dataset has to yield such super-batches; see
    `kb.data.stratified_batches`.

    Only training is changed: `predict`, `evaluate`, `summary` and `export` act
    on the network as it is. `model.model` is that network.

    Args:
        model: `keras.Model` to train: Functional, Sequential or subclassed,
            built or not.
        weighting: A `kb.weighting.Weighting`, for instance
            `kb.weighting.DeepBilevel()`, or the name of one that needs no
            arguments, for instance `"deep_bilevel"`.
        source_model: `keras.Model` for the source examples, if their labels
            differ from the target's. Only for weightings of source examples. It
            shares layers with `model`. The shared variables are theta, in which
            alignments are computed. All other layers are heads of one network.
            Defaults to `None`: one network for source and target.
        source_loss: Loss of the source network, as for `compile`. Defaults to
            `None`: the compiled loss.
        stratify_by: What the shards of `fit` on arrays are stratified by:
            `"label"` for integer or one-hot labels, a callable that maps one
            example's `(x, y)` to an integer group where the labels are
            something else (several outputs, multi-label, regression), or
            `None` for shards drawn at random. Defaults to `"label"`.
        rare: String, what `fit` on arrays does with a group that has too few
            examples for all shards: `"repeat"` them, and warn, `"drop"` the
            group, or `"error"`. Defaults to `"repeat"`.
        validation_ratio: Float in `[0, 1)`, the share of each group that
            `fit` on arrays puts in validation shards only. Each `fit` chooses
            these examples anew. Defaults to `0.0`: every example serves in both
            roles.
        **kwargs: `name` and the like, as of `keras.Model`.

    Example:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.DeepBilevel(8))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=128, epochs=30)
    ```

    A small clean set, or a small target set:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.Soseleto(len(x)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        kb.data.source_target_batches(
            (x, y), (x_clean, y_clean), source_size=256, target_size=32
        ),
        epochs=30,
    )
    model.weighting.example_weights  # Which labels to distrust.
    ```

    Reference:

    - [Jenni & Favaro, 2018](https://arxiv.org/abs/1809.01465)
    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622)
    """

    def __init__(
        self,
        model,
        weighting,
        source_model=None,
        source_loss=None,
        stratify_by="label",
        rare="repeat",
        validation_ratio=0.0,
        **kwargs,
    ):
        super().__init__(model, **kwargs)
        check_stratify_by_of_model(stratify_by)
        self.weighting = get_weighting(weighting)
        self.source_loss = source_loss
        self.stratify_by = stratify_by
        self.rare = rare
        self.validation_ratio = validation_ratio
        is_of_shards = isinstance(self.weighting, ShardWeighting)
        if is_of_shards and source_model is not None:
            raise ValueError(
                "Expected a weighting of source examples with `source_model`, "
                "such as `kb.weighting.Soseleto(num_examples)`. Received: "
                f"weighting={self.weighting}, which weighs shards."
            )
        if source_loss is not None and source_model is None:
            raise wrong_argument(
                "source_loss", source_loss, "None without a `source_model`"
            )
        self._source = None
        if source_model is not None:
            pair.check_names(model, source_model)
            self._source = Wrapper(source_model)
            if self.model.built and self._source.built:
                pair.check_shared(self.model, source_model)
        self.scheme = (Shards if is_of_shards else Examples)(self)
        for name in self.weighting.statistics:
            check_choice("statistics", name, self.scheme.statistics)

    @property
    def source_model(self):
        """The network of the source examples, `None` if there is only one."""
        return None if self._source is None else self._source.model

    def get_source(self):
        """Returns the `Wrapper` that source examples go through."""
        # Not a property: Keras would treat it as a part of this model, and
        # saving would recurse endlessly.
        return self._source or self

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "weighting": serialize(self.weighting),
            "stratify_by": serialize(self.stratify_by),
            "rare": self.rare,
            "validation_ratio": self.validation_ratio,
            "source_loss": serialize(self.source_loss),
        }

    def _networks_config(self):
        if self._source is None:
            return super()._networks_config()
        return {"pair": pair.get_config(self.model, self.source_model)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = deserialized(config, custom_objects)
        networks = config.pop("pair", None)
        if networks is not None:
            config["model"], config["source_model"] = pair.split(networks)
        return cls(**config)
