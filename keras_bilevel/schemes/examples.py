"""The scheme in which a target batch weighs source examples."""

import keras
from keras import ops

from keras_bilevel import engine
from keras_bilevel import keras_private
from keras_bilevel.callbacks.example_observer import ExampleObserver
from keras_bilevel.checks import check_remembers
from keras_bilevel.checks import wrong
from keras_bilevel.data import batches
from keras_bilevel.data.epochs import known_size
from keras_bilevel.data.epochs import origins
from keras_bilevel.schemes import pair
from keras_bilevel.schemes.scheme import WeighingScheme


class Examples(WeighingScheme):
    """The scheme of weightings of examples: source and target batches.

    They go through one network, or through two.

    Besides the metrics of `WeighingScheme`, the progress bar shows
    `target_loss`. With a source network, `loss` is that of the target, and
    `source_loss` is shown instead.

    Args:
        model: A `BilevelModel` with an `ExampleWeighting`.

    Attributes:
        statistics: Tuple of the names of what a weighting may ask for.
    """

    statistics = ("alignment", "loss")

    def __init__(self, model):
        super().__init__(model, "example")
        self._ids = None
        other = "target" if model.source_model is None else "source"
        self.other_loss = keras.metrics.Mean(name=f"{other}_loss")
        self.metrics.append(self.other_loss)
        # Counts the steps whose alignments do not add up.
        self.misfits = keras.metrics.Sum(name="misfits")
        self.hidden_metrics = [self.misfits]

    @property
    def variables(self):
        # Keras does not know the trackers of the source network.
        trackers = engine.loss_trackers(self.model.get_source())
        return [*super().variables, *trackers]

    def batches(self, part, batch_size, **options):
        raise ValueError(
            "Expected a dataset of (source, target) batches, since "
            f"{type(self.model.weighting).__name__} weighs source examples by "
            "a target batch. Received: arrays. Call `model.fit("
            "kb.data.source_target_batches((x, y), (x_target, y_target), "
            "source_size=..., target_size=...))`."
        )

    def check(self, dataset):
        engine.check_linear(self.model.loss)
        engine.check_linear(self.model.source_loss)
        if not batches.is_dataset(dataset):
            return dataset
        batches.source_and_target(batches.spec_of(dataset))
        if self.num_replicas > 1:
            self._check_split(batches.spec_of(dataset))
        size = known_size(dataset)
        engine.make_once(lambda: self.model.weighting.prepare(size), self.model)
        num_examples = self.model.weighting.num_examples
        if num_examples is None:
            return dataset
        check_remembers(self.model.weighting, size)
        # XLA removes the assertion in the step, so the dataset has one as well.
        if size is None:
            dataset = batches.with_ids_checked(dataset, num_examples)
        return dataset

    def _check_split(self, spec):
        """Raises `ValueError` where replicas would get unequal parts."""
        for name, part in zip(("source", "target"), spec):
            size = batches.batch_size_of(part)
            if size is None:
                raise ValueError(
                    f"Expected {name} batches of one fixed size with "
                    f"{self.num_replicas} replicas. Received: "
                    f"element_spec={part}. Pass `drop_remainder=True` to what "
                    "makes the batches."
                )
            if size % self.num_replicas:
                raise wrong(
                    f"argument `{name}_size`",
                    "a multiple of the number of replicas, "
                    f"{self.num_replicas}: each takes an equal part",
                    f"{name}_size={size}",
                )

    def callbacks(self, dataset):
        check = AlignmentCheck()
        is_memory = self.model.weighting.num_examples is not None
        are_positions = any(o.ids_are_positions for o in origins(dataset))
        if not (is_memory and are_positions):
            return [check]
        # If the order of the dataset changed, weights would silently move to
        # other examples. The observer notices that.
        if self._ids is None:
            self._ids = ExampleObserver(self.model.weighting.num_examples)
            self._ids.set_model(self.model)
        self._ids.forget()
        return [self._ids, check]

    def parse(self, batch):
        source, target = batches.source_and_target(batch)
        source.ids = engine.check_ids(
            source.ids, self.model.weighting.num_examples
        )
        return [(self.model, target), (self.model.get_source(), source)]

    def build(self, parts):
        super().build(parts)
        network = self.model.get_source()
        if network is self.model:
            return
        pair.check_shared(self.model.model, network.model)
        loss = self.model.source_loss
        loss = self.model.loss if loss is None else loss
        if not network.compiled or network.loss is not loss:
            network.compile(optimizer=None, loss=loss)

    def loss_inputs(self, batch):
        if not batches.is_source_and_target(batch):
            return super().loss_inputs(batch)
        source, target = batches.source_and_target(batch)
        network = self.model.get_source()
        self.build([(self.model, target), (network, source)])
        parts = (source.x, source.y, source.sample_weight)
        if network is self.model:
            return parts
        keras_private.build_symbolically(network, parts)
        return target.x, target.y, target.sample_weight

    def step(self, parts, scale):
        (_, target), (_, source) = parts
        return engine.add_regularizers(
            engine.walk_examples(
                self.model, self.model.weighting, target, source, scale
            )
        )

    def shown(self, step):
        source, target = self._losses(step)
        if self.model.source_model is None:
            return step.batch, step.y_pred, *source
        # The compiled metrics are those of the target network.
        return step.upper.batch, step.upper.y_pred, *target

    def _losses(self, step):
        """Returns losses of source and target, each with its counts."""
        counts = ops.cast(step.has_loss, "float32")
        has_target = ops.cast(step.upper.has_loss, "float32")
        return (
            (step.losses + step.penalty, counts),
            (step.upper.loss + step.penalty, has_target),
        )

    def update(self, step):
        super().update(step)
        source, target = self._losses(step)
        loss, counts = target if self.model.source_model is None else source
        self.other_loss.update_state(loss, sample_weight=counts)
        if step.is_misfit is not None:
            self.misfits.update_state(ops.cast(step.is_misfit, "float32"))


class AlignmentCheck(keras.callbacks.Callback):
    """Stops `fit` with an error if the alignments of a step do not add up.

    The loss is affine in the weights of the examples. So the weighted sum of
    their alignments is the alignment of the whole loss, unless a second
    derivative is wrong. Such a step changes nothing. The check runs after the
    first batch of `fit` and after every epoch.
    """

    def __init__(self):
        super().__init__()
        self._is_first = True

    def on_train_batch_end(self, batch, logs=None):
        if self._is_first:
            self._check()
        self._is_first = False

    def on_epoch_end(self, epoch, logs=None):
        self._check()

    def _check(self):
        if float(self.model.scheme.misfits.result()) > 0:
            network = self.model.get_source().model
            raise ValueError(
                "Expected a network whose loss can be differentiated twice: "
                "the alignments of the examples, weighted, then add up to that "
                "of the whole loss. Received: a network where they do not; an "
                "operation in it has a wrong second derivative. No weight was "
                f"changed by it. {engine.suspects(network)}"
            )
