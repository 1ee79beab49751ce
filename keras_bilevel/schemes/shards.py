"""The scheme in which some shards of a super-batch weigh the others."""

import keras
from keras import ops

from keras_bilevel import data
from keras_bilevel import engine
from keras_bilevel.callbacks.runaway import RunawayWarning
from keras_bilevel.callbacks.runaway import loss_of_guessing
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.batches import batch_size_of
from keras_bilevel.data.batches import examples
from keras_bilevel.data.batches import is_dataset
from keras_bilevel.data.batches import spec_of
from keras_bilevel.data.epochs import origins
from keras_bilevel.schemes.scheme import WeighingScheme


class Shards(WeighingScheme):
    """Deep Bilevel Learning's scheme: validation shards weigh the others.

    Args:
        model: A `BilevelModel` with a `ShardWeighting`.

    Attributes:
        statistics: Tuple of the names of what a weighting may ask for.
    """

    statistics = ("alignment", "loss", "norm", "gram")

    def __init__(self, model):
        super().__init__(model, "shard")
        # The loss in the progress bar includes regularisers, this one does not.
        self.data_loss = keras.metrics.Mean(name="data_loss")
        self.hidden_metrics = [self.data_loss]

    @property
    def num_parts(self):
        """How many shards there are on all replicas."""
        return self.num_replicas * self.model.weighting.num_shards

    def batches(self, part, batch_size, **options):
        if batch_size % self.num_parts:
            raise wrong_argument(
                "batch_size",
                batch_size,
                "a multiple of num_replicas * num_shards = "
                f"{self.num_parts}, so that every shard has the same size",
            )
        return data.stratified_batches(
            part,
            num_shards=self.model.weighting.num_shards,
            shard_size=batch_size // self.num_parts,
            num_validation_shards=self.model.weighting.num_validation_shards,
            num_replicas=self.num_replicas,
            ids=True,
            stratify_by=self.model.stratify_by,
            rare=self.model.rare,
            validation_ratio=self.model.validation_ratio,
            **options,
        )

    def watching(self, part, batch_size):
        _, y, sample_weight = part
        is_stratified = self.model.stratify_by == "label"
        guessing = loss_of_guessing(
            y, self.model.loss, self.num_parts if is_stratified else 1
        )
        if guessing is None or sample_weight is not None:
            return []
        judging = batch_size * self.model.weighting.num_validation_shards
        judging //= self.num_parts
        return [RunawayWarning(self.data_loss, guessing, judging)]

    def check(self, dataset):
        if not is_dataset(dataset):
            return dataset
        size = batch_size_of(spec_of(dataset))
        if size is None:
            raise ValueError(
                "Expected super-batches of one fixed size. Received: a dataset "
                f"with element_spec={dataset.element_spec}. Build it with "
                "`kb.data.stratified_batches`, or pass `drop_remainder=True` "
                "to `batch`."
            )
        if self.num_replicas > 1 and size % self.num_parts:
            raise ValueError(
                "Expected super-batches of a multiple of num_replicas * "
                f"num_shards = {self.num_replicas} * "
                f"{self.model.weighting.num_shards} examples. Received: "
                f"super-batches of {size}. Build them with `kb.data."
                f"stratified_batches(..., num_replicas={self.num_replicas})`."
            )
        for origin in origins(dataset):
            if origin.layout is not None:
                self._check_layout(origin.layout)
        return dataset

    def _check_layout(self, layout):
        names = ("num_shards", "num_validation_shards", "num_replicas")
        expected = {
            **{name: getattr(self.model.weighting, name) for name in names[:2]},
            "num_replicas": self.num_replicas,
        }
        received = {name: getattr(layout, name) for name in names}
        fits = layout.tuple_size % self.num_parts == 0
        if layout.separate_validation:
            fits = received == expected
        if not fits:
            raise ValueError(
                f"Expected super-batches with {_as_text(expected)}, or shards "
                "would not have the same label counts. Received: "
                f"{_as_text(received)}. Pass the former to "
                "`kb.data.stratified_batches`."
            )

    def parse(self, batch):
        return [(self.model, examples(batch))]

    def step(self, parts, scale):
        ((_, batch),) = parts
        return engine.add_regularizers(
            engine.walk_shards(self.model, self.model.weighting, batch, scale)
        )

    def shown(self, step):
        losses = step.losses + step.penalty
        return (
            step.batch,
            step.y_pred,
            losses,
            ops.cast(step.has_loss, "float32"),
        )

    def update(self, step):
        super().update(step)
        counts = ops.cast(step.has_loss, "float32")
        self.data_loss.update_state(step.losses, sample_weight=counts)


def _as_text(values):
    return ", ".join(f"{name}={value}" for name, value in values.items())
