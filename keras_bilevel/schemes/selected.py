"""The scheme in which a rule selects the examples of each network."""

import keras
from keras import ops

from keras_bilevel import data
from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.callbacks import agreement
from keras_bilevel.checks import check_remembers
from keras_bilevel.checks import without_ids
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.batches import examples
from keras_bilevel.data.batches import is_dataset
from keras_bilevel.data.epochs import known_size
from keras_bilevel.data.labels import check_classes
from keras_bilevel.schemes.scheme import Scheme
from keras_bilevel.selection.disagreement import disagreement


class Selected(Scheme):
    """Sample selection's scheme: the share R(t) of each batch is kept.

    The progress bar shows `kept`, the share of the examples that were learned
    from, averaged over the networks. It also shows `dropped_examples`, the
    number of examples whose loss or gradient was not finite.

    Args:
        model: A `SelectionModel`.
        networks: List of `Wrapper`s of its networks.
        schedule: A `Schedule`.
    """

    def __init__(self, model, networks, schedule):
        super().__init__(model)
        self.networks = networks
        self.schedule = schedule
        self.epoch = 0
        # R(t) and t are variables that Keras does not track. A new epoch or
        # schedule changes their values, but not the compiled step.
        self._share = keras.Variable(
            schedule(0), dtype="float32", trainable=False
        )
        self._time = keras.Variable(0, dtype="int", trainable=False)
        self.kept = keras.metrics.Mean(name="kept")
        self.dropped = keras.metrics.Sum(name="dropped_examples")
        self.metrics = [self.kept, self.dropped]
        self._num_examples = None  # Where the data of `fit` tell it.

    @property
    def variables(self):
        # Keras knows the trackers of this model alone.
        trackers = [v for n in self.networks for v in engine.loss_trackers(n)]
        return [*super().variables, *trackers, self._share, self._time]

    def begin_epoch(self, epoch):
        self.epoch = int(epoch)
        self._share.assign(self.schedule(self.epoch))
        self._time.assign(self.epoch)

    def check_epochs(self, epochs):
        self.schedule.check_epochs(epochs)

    def batches(self, part, batch_size, **options):
        if "classes" in self.model.rule.needs:
            check_classes(part[1])
        if batch_size % self.num_replicas:
            raise wrong_argument(
                "batch_size",
                batch_size,
                f"a multiple of the number of replicas, {self.num_replicas}",
            )
        return data.shuffled_batches(part, batch_size, **options)

    def check(self, dataset):
        engine.check_linear(self.model.loss)
        if self.model.rule.remembers and is_dataset(dataset):
            self._num_examples = known_size(dataset)
            check_remembers(self.model.rule, self._num_examples)
        return dataset

    def parse(self, batch):
        batch = examples(batch)
        if self.model.rule.remembers:
            if batch.ids is None:
                raise without_ids(self.model.rule)
            num_examples = self.model.rule.num_examples
            batch.ids = engine.check_ids(batch.ids, num_examples)
        return [(network, batch) for network in self.networks]

    def loss_inputs(self, batch):
        parts = super().loss_inputs(batch)
        for network in self.networks:
            keras_private.build_symbolically(network, parts)
        return parts

    def step(self, parts, scale):
        step = engine.walk_selected(
            self.networks,
            self._select,
            self._disagree,
            parts[0][1],
            scale,
            self.model.select_per_replica,
            self.model.rule.needs,
            self._penalize if self.model.rule.remembers else None,
        )
        step.y_pred = self.model.merged(step.y_pred)
        return step

    def _select(self, losses, disagree, **needed):
        return self.model.rule.call(
            losses, self._share.value, disagree, self._time.value, **needed
        )

    def _penalize(self, batch, y_preds, usable):
        rule, (y_pred,) = self.model.rule, y_preds
        probabilities = self._probabilities(batch, y_pred)
        engine.make_once(
            lambda: rule.prepare(self._num_examples, probabilities.shape[-1])
        )
        seen = batch.ids, ops.stop_gradient(probabilities), usable
        rule.remember(*map(engine.gather, seen))
        return rule.penalty(batch.ids, probabilities)[None]

    def _probabilities(self, batch, y_pred):
        """Returns the probability of each class, `(batch_size, classes)`."""
        outputs = engine.outputs_of(self.networks[0], batch.y, y_pred)
        found = None
        if len(outputs) == 1:
            found = agreement.class_probabilities(outputs[0])
        if found is None:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), y_pred)
            names = [output.loss.name for output in outputs]
            raise ValueError(
                "Expected one label for each example of "
                f"`{type(self.model.rule).__name__}`, a network with outputs "
                "of shape (batch_size, num_classes), or one that is yes or no, "
                "and a cross-entropy of `keras.losses`, which tells logits "
                f"from probabilities. Received: outputs of {shapes}, and "
                f"losses {names}."
            )
        return found

    def _disagree(self, y_preds, counts):
        losses = engine.losses_of(self.networks[0])
        thresholds = [
            agreement.threshold(losses.get(path), y_pred.shape[-1])
            for path, y_pred in keras.tree.flatten_with_path(y_preds[0])
        ]
        return disagreement(y_preds, thresholds, counts)

    def shown(self, step):
        # Each loss is a mean over kept examples. Their number as weight makes
        # the mean over several steps one over kept examples, too.
        kept = engine.reduce_sum(ops.sum(step.weights[0]))
        return step.batch, step.y_pred, step.losses[0], kept

    def update(self, step):
        self.kept.update_state(step.weights)
        self.dropped.update_state(ops.cast(step.dropped, "float32"))
