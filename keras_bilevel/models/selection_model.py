"""Networks that learn from the examples that a rule picks for them."""

import keras

from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.callbacks import agreement
from keras_bilevel.data import batches
from keras_bilevel.data.labels import check_classes
from keras_bilevel.models import arrays
from keras_bilevel.models import pair
from keras_bilevel.models.fitting import Fitting
from keras_bilevel.models.own_methods import OwnMethods
from keras_bilevel.models.selection_metrics import SelectionMetrics
from keras_bilevel.models.step_metrics import OutputTrackers
from keras_bilevel.models.wrapper import Wrapper
from keras_bilevel.models.wrapper import deserialized
from keras_bilevel.schedules import ConstantSchedule
from keras_bilevel.schedules import Schedule
from keras_bilevel.selection import Rule
from keras_bilevel.selection.disagreement import disagreement


@keras.saving.register_keras_serializable("keras_bilevel")
class SelectionModel(Fitting, OwnMethods, keras.Model):
    """Trains networks on the examples with small losses.

    A network learns what is easy before it memorizes wrong labels. So at
    epoch t only a share R(t) of each batch is kept, the examples with the
    smallest losses; the loss of a network is the mean over what is kept for
    it. With one R(t) = 1 this is plain Keras training.

    Every network makes one forward pass a step, and one optimizer trains all
    of them: what it takes over all gradients, such as `global_clipnorm`,
    couples them.

    Examples of sample weight 0 neither count nor are kept. Other weights, one
    number per example, weigh the losses of what is kept but do not change
    which examples are easy.

    Args:
        networks: `keras.Model` or list of them, of the same inputs and
            outputs, that share nothing. Networks for `CoTeaching` and its kin
            need different initial weights.
        rule: A `kb.selection.Rule`, for instance `kb.selection.CoTeaching()`.
        schedule: A `kb.schedules.Schedule`, R(t) for epoch t. Defaults to
            `None`, which keeps all that the rule lets pass.
        predict_with: What `predict` and `evaluate` use: `"first"` network or
            `"mean"` of all networks' outputs. Defaults to `"first"`.
        select_per_replica: Boolean. With several replicas, whether each keeps
            R(t) of its own examples, or R(t) of all examples is kept, as on
            one device. Defaults to `False`; `True` saves a small reduction.
        **kwargs: `name` and the like, as of `keras.Model`.

    Attributes:
        epoch: Integer, the t of R(t). `fit` sets it; set it before
            `train_on_batch`.
        schedule: The schedule. Another one takes effect at once, and needs
            no new compilation of the step.
        models: List of the networks, each usable on its own.

    Example:

    ```python
    model = kb.SelectionModel(
        [make_network(), make_network()],
        rule=kb.selection.CoTeaching(),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, batch_size=128, epochs=30)
    ```

    Reference:

    - [Han et al., 2018](https://arxiv.org/abs/1804.06872)
    - [Yao et al., 2020](https://arxiv.org/abs/1911.02377)
    """

    def __init__(
        self,
        networks,
        rule,
        schedule=None,
        predict_with="first",
        select_per_replica=False,
        **kwargs,
    ):
        networks = keras.tree.flatten(networks)
        _check_networks(networks, rule)
        _check_choice("predict_with", predict_with, ("first", "mean"))
        schedule = ConstantSchedule(0.0) if schedule is None else schedule
        _check_type("schedule", schedule, Schedule, "CoTeachingSchedule(0.2)")
        wrappers = [Wrapper(network) for network in networks]
        # `compile` looks for mixed_float16 in the model's own policy.
        kwargs.setdefault("dtype", networks[0].dtype_policy)
        super().__init__(**kwargs)
        self.rule = rule
        self._pace = _Pace(schedule)
        self.predict_with = predict_with
        self.select_per_replica = select_per_replica
        self._networks = wrappers
        self._step_metrics = SelectionMetrics()
        self.built = all(network.built for network in networks)

    @property
    def models(self):
        return [network.model for network in self._networks]

    @property
    def schedule(self):
        return self._pace.schedule

    @schedule.setter
    def schedule(self, schedule):
        self._pace.schedule = schedule
        self._pace.set(self.epoch)

    @property
    def epoch(self):
        return self._pace.epoch

    @epoch.setter
    def epoch(self, epoch):
        self._pace.set(epoch)

    def call(self, inputs, training=None):
        return self._merge(
            [n(inputs, training=training) for n in self._predicting()]
        )

    def _predicting(self):
        """Returns the networks that predict."""
        return self._networks[: 1 if self.predict_with == "first" else None]

    def _merge(self, y_preds):
        """Returns one prediction from those of the predicting networks."""
        if len(y_preds) == 1:
            return y_preds[0]
        merged = keras.tree.map_structure(
            lambda *t: keras.ops.mean(keras.ops.stack(t), axis=0), *y_preds
        )
        return engine.set_masks(merged, engine.get_masks(y_preds[0]))

    def build(self, input_shape):
        """Builds the networks for inputs of this (nested) shape."""
        for network in self._networks:
            network.build(input_shape)
        self.built = True

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs
    ):
        """Compiles the model; the arguments are those of `keras.Model`."""
        for network in self._networks:
            network.compile(None, loss, loss_weights)
        super().compile(optimizer, loss, loss_weights, **kwargs)

    def _judged(self):
        networks = getattr(self, "_networks", None)
        is_alone = networks and self.predict_with == "first"
        return networks[0].model if is_alone else None

    @property
    def losses(self):
        # Those of the networks that predict, for `evaluate`.
        predicting = self._predicting()
        losses = [loss for network in predicting for loss in network.losses]
        return [loss / len(predicting) for loss in losses]

    @property
    def output_names(self):
        # Dict losses and metrics are matched by these names.
        return self._networks[0].output_names

    def train_step(self, data):
        """One step: rank by loss, keep R(t), learn from what is kept."""
        batch = batches.examples(data)
        for network in self._networks:
            if not network.built:
                network.build_on(batch.x)
        self.built = True
        self._check_networks_train()
        self._build_optimizer(*((n, batch.x) for n in self._networks))
        scale = engine.LossScale(self.optimizer)
        trackers = OutputTrackers(self)
        step = engine.walk_selected(
            self._networks,
            self._select,
            self._disagree,
            batch,
            scale,
            self.select_per_replica,
            self.rule.needs,
        )
        engine.apply(self.optimizer, step.gradients, step.variables, scale)
        step.y_pred = self._merge(step.y_pred[: len(self._predicting())])
        for observer in self._observers:
            observer.observe(step)
        trackers.update(step)
        return self._log(step)

    def _select(self, losses, disagree, **needed):
        pace = self._pace
        return self.rule.call(
            losses, pace.share.value, disagree, pace.time.value, **needed
        )

    def _disagree(self, y_preds, counts):
        loss = keras.tree.flatten(self.loss)[0]
        is_logit = agreement.predicts_logits(loss)
        return disagreement(y_preds, is_logit, counts)

    def _log(self, step):
        batch = step.batch
        # The loss is a mean over the kept: so it is over several steps.
        kept = engine.reduce_sum(keras.ops.sum(step.weights[0]))
        keras_private.loss_tracker(self).update_state(
            step.losses[0], sample_weight=kept
        )
        self._step_metrics.update(step)
        logs = self.compute_metrics(
            batch.x, batch.y, step.y_pred, sample_weight=batch.sample_weight
        )
        return {**logs, **self._step_metrics.result()}

    def _parts_seen(self, batch):
        parts = super()._parts_seen(batch)
        for network in self._networks:
            keras_private.build_symbolically(network, parts)
        return parts

    def reset_metrics(self):
        super().reset_metrics()
        self._step_metrics.reset()

    def _step_results(self):
        return self._step_metrics.result()

    def _batches(self, part, batch_size, shuffle, steps_per_epoch):
        if "classes" in self.rule.needs:
            check_classes(part[1])
        return arrays.shuffled_batches(
            part,
            batch_size,
            self.distribute_strategy.num_replicas_in_sync,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            seed=self._data_seed(),
        )

    def _check_dataset(self, dataset):
        engine.check_linear(self.loss)

    def _check_epochs(self, epochs):
        self.schedule.check_epochs(epochs)

    def _begin_epoch(self, epoch):
        self.epoch = epoch

    def summary(self, *args, **kwargs):
        for network in self.models:
            network.summary(*args, **kwargs)

    def export(self, *args, **kwargs):
        if self.predict_with == "first":
            self.models[0].export(*args, **kwargs)
            return
        if pair.is_functional(self.models[0]):
            inputs, _ = pair.ends(self.models[0])
            keras.Model(inputs, self(inputs)).export(*args, **kwargs)
            return
        super().export(*args, **kwargs)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "networks": [serialize(network) for network in self.models],
            "rule": serialize(self.rule),
            "schedule": serialize(self.schedule),
            "predict_with": self.predict_with,
            "select_per_replica": self.select_per_replica,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**deserialized(config, custom_objects))


class _Pace:
    """Holds t and R(t), in variables that Keras does not track.

    A new epoch or schedule changes numbers and not the compiled step.
    """

    def __init__(self, schedule):
        self.schedule = schedule
        self.epoch = 0
        self.share = keras.Variable(
            schedule(0), dtype="float32", trainable=False
        )
        self.time = keras.Variable(0, dtype="int", trainable=False)

    def set(self, epoch):
        self.epoch = int(epoch)
        self.share.assign(self.schedule(self.epoch))
        self.time.assign(self.epoch)


def _check_networks(networks, rule):
    _check_type("rule", rule, Rule, "CoTeaching()")
    for name in rule.needs:
        _check_choice("needs", name, engine.NEEDS)
    for network in networks:
        _check_type("networks", network, keras.Model, None)
    needed = rule.num_networks
    if not networks or needed not in (None, len(networks)):
        raise ValueError(
            "Invalid value for argument `networks`. Expected "
            f"{needed or 'at least one'} for {type(rule).__name__}. "
            f"Received: {len(networks)} networks"
        )
    seen = set()
    for network in networks:
        own = {id(v) for v in network.variables} | {id(network)}
        if own & seen:
            raise ValueError(
                "Invalid value for argument `networks`. Expected networks "
                "that share nothing: each is to make errors of its own. "
                "Received: a network or a layer twice. Build each network "
                "from layers of its own."
            )
        seen |= own


def _check_type(name, value, kind, example):
    if isinstance(value, kind):
        return
    mend = f" Pass for instance `{example}`." if example else ""
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected a "
        f"`{kind.__name__}`. Received: {name}={value} (of type "
        f"{type(value)}).{mend}"
    )


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of "
            f"{choices}. Received: {name}={value!r}"
        )
