"""The model of sample selection."""

import keras

from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.checks import check_choice
from keras_bilevel.checks import check_type
from keras_bilevel.checks import wrong
from keras_bilevel.data.batches import get_masks
from keras_bilevel.data.batches import set_masks
from keras_bilevel.models.fitting import Fitting
from keras_bilevel.models.wrapper import OwnMethods
from keras_bilevel.models.wrapper import Wrapper
from keras_bilevel.models.wrapper import deserialized
from keras_bilevel.schedules import ConstantSchedule
from keras_bilevel.schedules import Schedule
from keras_bilevel.schemes import Selected
from keras_bilevel.schemes import pair
from keras_bilevel.selection import Rule


@keras.saving.register_keras_serializable("keras_bilevel")
class SelectionModel(Fitting, OwnMethods, keras.Model):
    """Trains networks on the examples with small losses.

    A network learns what is easy before it memorizes wrong labels. So at epoch
    t only a share R(t) of each batch is kept: the examples with the smallest
    losses. The loss of a network is the mean over the examples kept for it. One
    network with R(t) = 1 is plain Keras training.

    Every network makes one forward pass per step. One optimizer trains all of
    them. So whatever it computes over all gradients, such as `global_clipnorm`,
    couples the networks.

    Examples of sample weight 0 are neither counted nor kept. Other weights, one
    per example, weigh the losses of the kept examples, but do not change which
    examples are kept.

    Args:
        networks: `keras.Model` or list of them, with the same inputs and
            outputs, that share no layers. Networks for `CoTeaching` and similar
            rules need different initial weights.
        rule: A `kb.selection.Rule`, for instance `kb.selection.CoTeaching()`.
        schedule: A `kb.schedules.Schedule`, R(t) for epoch t. Defaults to
            `None`: R(t) = 1.
        predict_with: What `predict` and `evaluate` use: `"first"` network or
            `"mean"` of all networks' outputs. Defaults to `"first"`.
        select_per_replica: Boolean, for several replicas. `True` keeps R(t) of
            the examples of each replica, which saves a small reduction. `False`
            keeps R(t) of all examples, as on one device. With JAX all devices
            are one replica, and both are the same. Defaults to `False`.
        **kwargs: `name` and the like, as of `keras.Model`.

    Attributes:
        epoch: Integer, the t of R(t). `fit` sets it; set it before
            `train_on_batch`.
        schedule: The schedule. A new one takes effect at once, and the step is
            not compiled again.
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
        check_choice("predict_with", predict_with, ("first", "mean"))
        schedule = ConstantSchedule(0.0) if schedule is None else schedule
        _check_schedule(schedule)
        wrappers = [Wrapper(network) for network in networks]
        # `compile` looks for mixed_float16 in the model's own policy.
        kwargs.setdefault("dtype", networks[0].dtype_policy)
        super().__init__(**kwargs)
        self.rule = rule
        self.predict_with = predict_with
        self.select_per_replica = select_per_replica
        self._networks = wrappers
        self.scheme = Selected(self, wrappers, schedule)
        self.built = all(network.built for network in networks)

    @property
    def models(self):
        return [network.model for network in self._networks]

    @property
    def schedule(self):
        return self.scheme.schedule

    @schedule.setter
    def schedule(self, schedule):
        _check_schedule(schedule)
        self.scheme.schedule = schedule
        self.scheme.begin_epoch(self.epoch)

    @property
    def epoch(self):
        return self.scheme.epoch

    @epoch.setter
    def epoch(self, epoch):
        self.scheme.begin_epoch(epoch)

    def call(self, inputs, training=None):
        networks = self._predicting()
        return self.merged([n(inputs, training=training) for n in networks])

    def _predicting(self):
        """Returns the networks that predict."""
        return self._networks[: 1 if self.predict_with == "first" else None]

    def merged(self, y_preds):
        """Returns predictions of networks, merged as `predict_with` says.

        Args:
            y_preds: List of the predictions of the networks that predict, or
                of all.
        """
        if self.predict_with == "first" or len(y_preds) == 1:
            return y_preds[0]
        merged = keras.tree.map_structure(
            lambda *t: keras.ops.mean(keras.ops.stack(t), axis=0), *y_preds
        )
        return set_masks(merged, get_masks(y_preds[0]))

    def build(self, input_shape):
        """Builds the networks for inputs of this (nested) shape."""
        for network in self._networks:
            network.build(input_shape)
        self.built = True

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        *args,
        **kwargs,
    ):
        """Compiles the model; the arguments are those of `keras.Model`."""
        for network in self._networks:
            network.compile(None, loss, loss_weights)
        super().compile(optimizer, loss, loss_weights, *args, **kwargs)

    def _evaluated(self):
        networks = getattr(self, "_networks", None)
        is_alone = networks and self.predict_with == "first"
        return networks[0].model if is_alone else None

    @property
    def losses(self):
        given = keras_private.given_losses(self)
        if given:
            return given
        # The losses of the networks that predict, for `evaluate`.
        predicting = self._predicting()
        losses = [loss for network in predicting for loss in network.losses]
        return [loss / len(predicting) for loss in losses]

    @property
    def output_names(self):
        # Dict losses and metrics are matched by these names.
        return self._networks[0].output_names

    def summary(self, *args, **kwargs):
        for network in self.models:
            network.summary(*args, **kwargs)

    def export(self, *args, **kwargs):
        if self.predict_with == "first":
            self.models[0].export(*args, **kwargs)
            return
        if pair.is_functional(self.models[0]):
            inputs = keras_private.structure_of(self.models[0], "inputs")
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


def _check_schedule(schedule):
    mend = "Pass for instance `CoTeachingSchedule(0.2)`."
    check_type("schedule", schedule, Schedule, mend)


def _check_networks(networks, rule):
    check_type("rule", rule, Rule, "Pass for instance `CoTeaching()`.")
    for name in rule.needs:
        check_choice("needs", name, engine.NEEDS)
    for network in networks:
        check_type("networks", network, keras.Model)
    needed = rule.num_networks
    if not networks or needed not in (None, len(networks)):
        raise wrong(
            "argument `networks`",
            f"{needed or 'at least one'} for {type(rule).__name__}",
            len(networks),
            "Pass a list of as many networks.",
        )
    seen = set()
    for network in networks:
        own = {id(v) for v in network.variables} | {id(network)}
        if own & seen:
            raise wrong(
                "argument `networks`",
                "networks that share nothing: each is to make errors of its "
                "own",
                "a network or a layer twice",
                "Build each network from layers of its own.",
            )
        seen |= own
