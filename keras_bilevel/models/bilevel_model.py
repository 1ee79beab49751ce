"""The one model, and the one `train_step`, of all alignment weightings."""

import keras
import tensorflow as tf

from keras_bilevel import data as data_room
from keras_bilevel import gradients
from keras_bilevel.models import arrays
from keras_bilevel.models import callback_lists
from keras_bilevel.models import runaway
from keras_bilevel.models.step_metrics import StepMetrics
from keras_bilevel.models.wrapper import Wrapper
from keras_bilevel.weighting.weighting import Weighting


@keras.saving.register_keras_serializable("keras_bilevel")
class BilevelModel(Wrapper):
    """Trains a Keras model on what its lower-level units have in common.

    Everything but training is the inner model's: `predict`, `evaluate`,
    `summary`, `export` act on the network as it is, and `model.model` is that
    network.

    Args:
        model: `keras.Model` to train: Functional, Sequential or subclassed,
            built or not.
        weighting: A `kb.weighting.Weighting`, for instance
            `kb.weighting.DeepBilevel()`.
        stratify_by: What the shards of `fit` on arrays are stratified by:
            `"label"` for integer or one-hot labels, a callable that maps one
            example's `(x, y)` to an integer group where the labels are
            something else (several outputs, multi-label, regression), or
            `None` for shards drawn at random. Defaults to `"label"`.
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

    Reference:

    - [Jenni & Favaro, 2018](https://arxiv.org/abs/1809.01465)
    """

    def __init__(self, model, weighting, stratify_by="label", **kwargs):
        super().__init__(model, **kwargs)
        if not isinstance(weighting, Weighting):
            raise ValueError(
                "Invalid value for argument `weighting`. Expected a "
                "`kb.weighting.Weighting`, for instance "
                "`kb.weighting.DeepBilevel()`. "
                f"Received: weighting={weighting} (of type {type(weighting)})"
            )
        self.weighting = weighting
        self.stratify_by = stratify_by
        self._step_metrics = StepMetrics(weighting.unit)
        self._observers = []

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains the model; the arguments are those of `keras.Model.fit`.

        From arrays, `fit` builds stratified super-batches: `batch_size` is
        the number of examples in all shards of a step, on all replicas, and
        has to be a multiple of `num_shards`. Fewer than `num_shards` examples
        of a class and fewer than `batch_size` in all are left over, others
        each epoch. A dataset has to yield such super-batches; see
        `kb.data.stratified_batches`.

        Returns:
            A `keras.callbacks.History`.
        """
        self._assert_compile_called("fit")
        if arrays.are_arrays(x):
            part = (x, y, sample_weight)
            self._check_observers(callbacks, x)
            if validation_split and validation_data is None:
                part, validation_data = arrays.split_off_tail(
                    part, validation_split
                )
            batch_size = batch_size or 32
            validation_batch_size = validation_batch_size or batch_size
            x = self._super_batches(
                part, batch_size, class_weight, shuffle, steps_per_epoch
            )
            if class_weight is None and sample_weight is None:
                callbacks = self._with_warning(callbacks, y, batch_size)
            y = batch_size = class_weight = sample_weight = None
            validation_split, steps_per_epoch = 0.0, None
        self._check_dataset(x)
        callbacks = self._with_epochs(callbacks, x)
        self._set_observers(callbacks)
        return super().fit(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle and isinstance(x, keras.utils.PyDataset),
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )

    def train_step(self, data):
        """One step of any weighting: Eq. 11 with the weights of Eq. 10."""
        upper, lower = self._split(data)
        if not self.model.built:
            self.build_on(lower.x)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        scale = gradients.LossScale(self.optimizer)
        if self.weighting.unit == "shard":
            step = gradients.walk_shards(self, self.weighting, lower, scale)
        else:
            step = gradients.walk_examples(
                self, self.weighting, upper, lower, scale
            )
        gradient, penalty = gradients.add_regularizers(
            step.gradients, step.variables
        )
        self.optimizer.apply([scale.up(g) for g in gradient], step.variables)
        self.weighting.update(
            lower.ids, step.statistics, self.optimizer.learning_rate
        )
        for observer in self._observers:
            observer.observe(step)
        return self._log(step, penalty)

    def _split(self, data):
        """Returns the upper and the lower part of the data.

        Shards hold both parts in one super-batch, the validation shards first.
        """
        if self.weighting.unit == "shard":
            return None, _unpack(data)
        (*source, ids), target = data
        source, target = _unpack(tuple(source)), _unpack(target)
        source.ids = ids
        return target, source

    def _log(self, step, penalty):
        healthy = tf.cast(~step.dropped, tf.float32)
        self._loss_tracker.update_state(
            step.losses + penalty, sample_weight=healthy
        )
        self._step_metrics.update(step)
        batch = step.batch
        logs = self.compute_metrics(
            batch.x, batch.y, step.y_pred, sample_weight=batch.sample_weight
        )
        return {**logs, **self._step_metrics.result()}

    @property
    def losses(self):
        losses = super().losses
        if not gradients.are_data_only():
            return losses
        # Keras lists the weight regularisers last, one each.
        regularized = sum(
            v.regularizer is not None for v in self.trainable_variables
        )
        return losses[: len(losses) - regularized]

    def reset_metrics(self):
        super().reset_metrics()
        self._step_metrics.reset()

    def _super_batches(
        self, part, batch_size, class_weight, shuffle, steps_per_epoch
    ):
        if self.weighting.unit != "shard":
            raise ValueError(
                f"Expected a dataset of (source, target) batches, since "
                f"{type(self.weighting).__name__} weighs source examples by a "
                "target batch. Received: arrays. Call `model.fit("
                "kb.data.source_target_batches((x, y), (x_target, y_target), "
                "source_size=..., target_size=...))`."
            )
        x, y, sample_weight = part
        if class_weight is not None:
            sample_weight = arrays.class_to_sample_weight(
                y, class_weight, sample_weight
            )
        return arrays.super_batches(
            (x, y, sample_weight),
            self.weighting,
            batch_size,
            self.distribute_strategy.num_replicas_in_sync,
            stratify_by=self.stratify_by,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
        )

    def _check_dataset(self, dataset):
        if not isinstance(dataset, tf.data.Dataset):
            return
        specs = keras.tree.flatten(dataset.element_spec)
        if any(spec.shape.rank and spec.shape[0] is None for spec in specs):
            raise ValueError(
                "Expected super-batches of one fixed size. Received: a dataset "
                f"with element_spec={dataset.element_spec}. Build it with "
                "`kb.data.stratified_batches`, or pass `drop_remainder=True` "
                "to `batch`."
            )

    def _with_epochs(self, callbacks, dataset):
        """Adds a callback that tells the dataset which epoch it is."""
        counters = data_room.epoch_counters(dataset)
        tell = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: [
                counter.set(epoch) for counter in counters
            ]
        )
        return callback_lists.appended(callbacks, tell)

    def _with_warning(self, callbacks, y, batch_size):
        guessing = runaway.loss_of_guessing(y, self.loss)
        if guessing is None:
            return callbacks
        shards = self.weighting.num_shards
        judging = batch_size * self.weighting.num_validation_shards // shards
        warning = runaway.RunawayWarning(
            self._step_metrics.data_loss, guessing, judging
        )
        return callback_lists.appended(callbacks, warning)

    def _check_observers(self, callbacks, x):
        num_examples = len(keras.tree.flatten(x)[0])
        for observer in callback_lists.observers(callbacks):
            observer.check(num_examples)

    def _set_observers(self, callbacks):
        """Lets callbacks that observe steps take part in `train_step`."""
        observers = callback_lists.observers(callbacks)
        if observers != self._observers:
            self._observers = observers
            self.train_function = None

    def save_own_variables(self, store):
        # A resumed run goes on with the dropout masks and with what observers
        # have seen. Keras itself does not save the states of seeds.
        for i, variable in enumerate(gradients.seed_states(self)):
            store[f"seed_{i}"] = variable.numpy()
        for i, observer in enumerate(self._observers):
            for name, value in observer.get_state().items():
                store[f"observer_{i}_{name}"] = value

    def load_own_variables(self, store):
        for i, variable in enumerate(gradients.seed_states(self)):
            if f"seed_{i}" in store.keys():
                variable.assign(store[f"seed_{i}"])
        for i, observer in enumerate(self._observers):
            prefix = f"observer_{i}_"
            observer.set_state(
                {
                    key.removeprefix(prefix): store[key][...]
                    for key in store.keys()
                    if key.startswith(prefix)
                }
            )

    def get_config(self):
        config = super().get_config()
        config["weighting"] = keras.saving.serialize_keras_object(
            self.weighting
        )
        config["stratify_by"] = keras.saving.serialize_keras_object(
            self.stratify_by
        )
        return config


def _unpack(data):
    """Returns the `Batch` in `x`, `(x, y)`, `(x, y, w)` or `(x, y, w, ids)`."""
    data = data if isinstance(data, tuple) else (data,)
    return gradients.Batch(*data, *[None] * (2 - len(data)))
