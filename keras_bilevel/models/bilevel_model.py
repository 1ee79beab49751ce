"""The one model, and the one `train_step`, of all alignment weightings."""

import keras
from keras import ops

from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.callbacks.example_observer import ExampleObserver
from keras_bilevel.data import batches
from keras_bilevel.data.epochs import attached
from keras_bilevel.models import arrays
from keras_bilevel.models import callback_lists
from keras_bilevel.models import pair
from keras_bilevel.models import runaway
from keras_bilevel.models.alignment_check import AlignmentCheck
from keras_bilevel.models.fitting import Fitting
from keras_bilevel.models.step_metrics import OutputTrackers
from keras_bilevel.models.step_metrics import StepMetrics
from keras_bilevel.models.wrapper import Wrapper
from keras_bilevel.models.wrapper import deserialized
from keras_bilevel.weighting.get import get as get_weighting


@keras.saving.register_keras_serializable("keras_bilevel")
class BilevelModel(Fitting, Wrapper):
    """Trains a Keras model on what its lower-level units have in common.

    From arrays, `fit` builds stratified super-batches: `batch_size` is the
    number of examples in all shards of a step, on all replicas, and has to be
    a multiple of `num_shards`. Fewer than `num_shards` examples of a class and
    fewer than `batch_size` in all are left over, others each epoch. A dataset
    has to yield such super-batches; see `kb.data.stratified_batches`.

    Everything but training is the inner model's: `predict`, `evaluate`,
    `summary`, `export` act on the network as it is, and `model.model` is that
    network.

    Args:
        model: `keras.Model` to train: Functional, Sequential or subclassed,
            built or not.
        weighting: A `kb.weighting.Weighting`, for instance
            `kb.weighting.DeepBilevel()`, or the name of one that needs no
            arguments, for instance `"deep_bilevel"`.
        source_model: `keras.Model` for the source examples of a target-driven
            weighting, where their labels differ from the target's. It shares
            layers with `model`: what both have in common is theta, by which
            the target judges, the rest are their own heads. Defaults to
            `None`: one network for source and target.
        source_loss: Loss of the source network, as for `compile`, where it is
            not the one that is compiled. Defaults to `None`.
        stratify_by: What the shards of `fit` on arrays are stratified by:
            `"label"` for integer or one-hot labels, a callable that maps one
            example's `(x, y)` to an integer group where the labels are
            something else (several outputs, multi-label, regression), or
            `None` for shards drawn at random. Defaults to `"label"`.
        rare: String, what `fit` on arrays does with a group that has too few
            examples for all shards: `"repeat"` them, and warn, `"drop"` the
            group, or `"error"`. Defaults to `"repeat"`.
        validation_ratio: Float in `[0, 1)`, the share of each group that
            `fit` on arrays puts in validation shards only. It is chosen anew
            by each `fit`. Defaults to `0.0`: every example serves in both
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
        if source_model is not None:
            model, source_model = map(_normalized, (model, source_model))
        super().__init__(model, **kwargs)
        self.weighting = get_weighting(weighting)
        self.source_loss = source_loss
        self.stratify_by = stratify_by
        self.rare = rare
        self.validation_ratio = validation_ratio
        self._source = self._wrap_source(source_model)
        self._ids = None
        self._step_metrics = StepMetrics(
            self.weighting.unit, other="source" if source_model else "target"
        )

    @property
    def source_model(self):
        """The network of the source examples, `None` if there is but one."""
        return None if self._source is None else self._source.model

    def get_source(self):
        """Returns the `Wrapper` that source examples go through."""
        # No property: Keras would take it for a part of this model, and save
        # it without end.
        return self._source or self

    def _wrap_source(self, source_model):
        if source_model is None:
            return None
        if self.weighting.unit != "example":
            raise ValueError(
                "Expected a weighting of source examples with `source_model`, "
                "such as `kb.weighting.Soseleto(num_examples)`. Received: "
                f"weighting={self.weighting}, which weighs shards."
            )
        source = Wrapper(source_model)
        if self.model.built and source.built:
            pair.check_shared(self.model, source.model)
        return source

    def train_step(self, data):
        """One step of any weighting: Eq. 11 with the weights of Eq. 10."""
        upper, lower = self._split(data)
        self._build(upper, lower)
        self._check_networks_train()
        self._build_optimizer(
            (self, (upper or lower).x), (self.get_source(), lower.x)
        )
        scale = engine.LossScale(self.optimizer)
        trackers = OutputTrackers(self)
        if self.weighting.unit == "shard":
            step = engine.walk_shards(self, self.weighting, lower, scale)
        else:
            step = engine.walk_examples(
                self, self.weighting, upper, lower, scale
            )
        gradient, penalty = engine.add_regularizers(
            step.gradients, step.variables
        )
        engine.apply(self.optimizer, gradient, step.variables, scale)
        for observer in self._observers:
            observer.observe(step)
        trackers.update(step)
        return self._log(step, penalty)

    def _split(self, data):
        """Returns the upper and the lower part of the data.

        Shards hold both parts in one super-batch, the validation shards first.
        """
        if self.weighting.unit == "shard":
            return None, batches.examples(data)
        source, target = batches.source_and_target(data)
        source.ids = batches.check_ids(source.ids, self.weighting.num_examples)
        return target, source

    def _parts_seen(self, batch):
        if self.weighting.unit == "shard" or not batches.is_source_and_target(
            batch
        ):
            return super()._parts_seen(batch)
        lower, upper = batches.source_and_target(batch)
        self._build(upper, lower)
        if self._source is None:
            return lower.x, lower.y, lower.sample_weight
        parts = (lower.x, lower.y, lower.sample_weight)
        keras_private.build_symbolically(self._source, parts)
        return upper.x, upper.y, upper.sample_weight

    def _build(self, upper, lower):
        """Builds what is not built yet, from the first batch."""
        if not self.model.built:
            self.build_on((upper or lower).x)
        if self._source is None:
            return
        if not self._source.built:
            self._source.build_on(lower.x)
        pair.check_shared(self.model, self.source_model)
        loss = self.loss if self.source_loss is None else self.source_loss
        if self._source.loss is not loss:
            self._source.compile(optimizer=None, loss=loss)

    def _log(self, step, penalty):
        lower = (step.losses + penalty, ops.cast(step.has_loss, "float32"))
        seen, shown, other = step, lower, None
        if step.upper is not None:
            has_loss = ops.cast(step.upper.has_loss, "float32")
            upper = (step.upper.loss + penalty, has_loss)
            other = upper
            if self._source is not None:
                # The compiled metrics are those of the target network.
                seen, shown, other = step.upper, upper, lower
        keras_private.loss_tracker(self).update_state(
            shown[0], sample_weight=shown[1]
        )
        self._step_metrics.update(step, other)
        batch = seen.batch
        logs = self.compute_metrics(
            batch.x, batch.y, seen.y_pred, sample_weight=batch.sample_weight
        )
        return {**logs, **self._step_metrics.result()}

    def reset_metrics(self):
        super().reset_metrics()
        self._step_metrics.reset()

    def _step_results(self):
        return self._step_metrics.result()

    def _batches(self, part, batch_size, shuffle, steps_per_epoch):
        if self.weighting.unit != "shard":
            raise ValueError(
                f"Expected a dataset of (source, target) batches, since "
                f"{type(self.weighting).__name__} weighs source examples by a "
                "target batch. Received: arrays. Call `model.fit("
                "kb.data.source_target_batches((x, y), (x_target, y_target), "
                "source_size=..., target_size=...))`."
            )
        return arrays.super_batches(
            part,
            self.weighting,
            batch_size,
            self.distribute_strategy.num_replicas_in_sync,
            stratify_by=self.stratify_by,
            rare=self.rare,
            validation_ratio=self.validation_ratio,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            seed=self._data_seed(),
        )

    def _with_epochs(self, callbacks, dataset):
        callbacks = super()._with_epochs(callbacks, dataset)
        if self.weighting.unit == "shard":
            return callbacks
        is_memory = self.weighting.num_examples is not None
        if is_memory and attached(dataset, "ids_are_positions"):
            # Weights would go from example to example, without a word.
            callbacks = callback_lists.appended(callbacks, self._id_check())
        check = AlignmentCheck(
            self._step_metrics.misfits, self.get_source().model
        )
        return callback_lists.appended(callbacks, check)

    def _id_check(self):
        if self._ids is None:
            self._ids = ExampleObserver(self.weighting.num_examples)
            self._ids.set_model(self)
        self._ids.forget()
        return self._ids

    def _watched(self, callbacks, part, batch_size):
        _, y, sample_weight = part
        shards = self.weighting.num_shards
        replicas = self.distribute_strategy.num_replicas_in_sync
        tuple_size = shards * replicas if self.stratify_by == "label" else 1
        guessing = runaway.loss_of_guessing(y, self.loss, tuple_size)
        if guessing is None or sample_weight is not None:
            return callbacks
        judging = batch_size * self.weighting.num_validation_shards // shards
        warning = runaway.RunawayWarning(
            self._step_metrics.data_loss, guessing, judging
        )
        return callback_lists.appended(callbacks, warning)

    def _check_dataset(self, dataset):
        if self.weighting.unit == "example":
            engine.check_linear(self.loss)
            engine.check_linear(self.source_loss)
        if not batches.is_dataset(dataset):
            return
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.weighting.unit == "shard":
            batches.check_super_batches(dataset, self.weighting, replicas)
        else:
            batches.source_and_target(dataset.element_spec)
            batches.check_split(dataset, replicas)
            self._check_source_size(dataset)

    def _guarded(self, dataset):
        # XLA leaves out the assertion in the step.
        num_examples = self.weighting.num_examples
        is_known = bool(attached(dataset, "num_source_examples"))
        is_checked = num_examples is None or is_known
        if is_checked or not batches.is_dataset(dataset):
            return dataset
        return batches.with_ids_checked(dataset, num_examples)

    def _check_source_size(self, dataset):
        num_examples = self.weighting.num_examples
        sizes = attached(dataset, "num_source_examples")
        if num_examples and any(size > num_examples for size in sizes):
            raise ValueError(
                "Expected a weight for every source example. Received: "
                f"{type(self.weighting).__name__} with num_examples="
                f"{num_examples} for {max(sizes)} source examples. Pass the "
                "size of the source set as `num_examples`."
            )

    def get_config(self):
        config = super().get_config()
        config["weighting"] = keras.saving.serialize_keras_object(
            self.weighting
        )
        config["stratify_by"] = keras.saving.serialize_keras_object(
            self.stratify_by
        )
        config["rare"] = self.rare
        config["validation_ratio"] = self.validation_ratio
        config["source_loss"] = keras.saving.serialize_keras_object(
            self.source_loss
        )
        return config

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


def _normalized(network):
    """Returns a network as the graph from which it can be saved jointly."""
    if not pair.is_functional(network):
        return network
    inputs, outputs = pair.ends(network)
    return keras.Model(inputs, outputs, name=network.name)
