"""The scheme in which some shards of a super-batch weigh the others."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_bilevel import data
from keras_bilevel import engine
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
    """

    def __init__(self, model):
        super().__init__(model, "shard")
        # The loss in the progress bar includes regularisers, this one does not.
        self.data_loss = keras.metrics.Mean(name="data_loss")
        self.unseen = [self.data_loss]

    @property
    def num_parts(self):
        """How many shards there are on all replicas."""
        return self.num_replicas * self.model.weighting.num_shards

    def batches(self, part, batch_size, **options):
        if batch_size % self.num_parts:
            raise ValueError(
                "Invalid value for argument `batch_size`. Expected a multiple "
                f"of num_replicas * num_shards = {self.num_parts}, so that "
                "every shard has the same size. "
                f"Received: batch_size={batch_size}"
            )
        return data.stratified_batches(
            part if part[2] is not None else part[:2],
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
                f"Expected super-batches with {_listed(expected)}, or shards "
                "would not have the same label counts. Received: "
                f"{_listed(received)}. Pass the former to "
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


def _listed(values):
    return ", ".join(f"{name}={value}" for name, value in values.items())


# A slow start is not a runaway.
_EPOCHS = 5
_STEPS = 200


def loss_of_guessing(y, loss, tuple_size=1):
    """Returns the cross-entropy of guessing label frequencies, or `None`.

    Args:
        y: Integer labels of shape `(num_examples,)` or `(num_examples, 1)`, or
            one-hot labels of shape `(num_examples, classes)`.
        loss: What was given to `compile`.
        tuple_size: Integer. The number of examples of each class that an epoch
            sees is a multiple of it. Defaults to `1`.

    Returns:
        Float. `None` unless the loss is a cross-entropy over classes, with one
        label per example that always counts, and there are two classes.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    if keras.tree.is_nested(y) or "categorical_crossentropy" not in str(name):
        return None
    options = getattr(loss, "get_config", dict)()
    counts = _counts(np.asarray(y), "sparse" in str(name))
    ignored = options.get("ignore_class") is not None
    if ignored or counts is None or np.count_nonzero(counts) < 2:
        return None
    seen = np.maximum(counts // tuple_size, counts > 0) * tuple_size
    frequencies = seen / seen.sum()
    # No constant prediction is better than the mean of the smoothed labels.
    smoothing = options.get("label_smoothing") or 0.0
    frequencies = frequencies * (1 - smoothing) + smoothing / len(frequencies)
    frequencies = frequencies[frequencies > 0]
    return float(-np.sum(frequencies * np.log(frequencies)))


def _counts(labels, is_sparse):
    """Returns the number of examples per class, `None` for other labels."""
    if labels.ndim == 2 and labels.shape[1] > 1 and not is_sparse:
        return labels.sum(axis=0)
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return np.unique(labels, return_counts=True)[1]
    return None


class RunawayWarning(keras.callbacks.Callback):
    """Warns once if the loss does not fall below that of guessing.

    Args:
        data_loss: `keras.metrics.Mean` of the epoch's loss, regularisers left
            out.
        guessing: Float, the loss of guessing.
        judging: Integer, number of examples in the validation shards.
    """

    def __init__(self, data_loss, guessing, judging):
        super().__init__()
        self.data_loss = data_loss
        self.guessing = guessing
        self.judging = judging
        self._epochs = self._steps = 0
        self._warned = False

    def on_epoch_end(self, epoch, logs=None):
        loss = float(self.data_loss.result())
        # The comparison is false for NaN, too.
        if loss < self.guessing:
            self._epochs = self._steps = 0
            return
        self._epochs += 1
        self._steps += self.params.get("steps") or 0
        if self._epochs < _EPOCHS or self._steps < _STEPS or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"Training seems to have run away: for {self._epochs} epochs the "
            f"loss (now {loss:.3f}) was not below {self.guessing:.3f}, that of "
            "guessing label frequencies. A rate is stable here about where it "
            "is for plain SGD with batches as large as the validation shards, "
            f"{self.judging} examples. Lower the learning rate, or take larger "
            "shards (a larger `batch_size`, or fewer shards). Labels that say "
            "nothing about the inputs look the same.",
            stacklevel=2,
        )
