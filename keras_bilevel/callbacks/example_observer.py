"""Callbacks that keep something for every example."""

import numpy as np
from keras import ops

from keras_bilevel.callbacks import fingerprints
from keras_bilevel.callbacks import outputs
from keras_bilevel.callbacks.observer import Observer
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_remembers
from keras_bilevel.checks import unknown_size
from keras_bilevel.checks import without_ids
from keras_bilevel.engine import check_ids
from keras_bilevel.engine import raise_rows
from keras_bilevel.engine.compiled_losses import outputs_of


class ExampleObserver(Observer):
    """An observer of batches with ids, for a known number of examples.

    It raises an error if an id belongs to more than one example, as a position
    does in a dataset that is shuffled before positions are counted. It compares
    the labels, which takes eight bytes per example, not the inputs, which may
    be augmented.

    Args:
        num_examples: Integer, ids are in `[0, num_examples)`. Defaults to
            `None`: `fit` knows it of arrays, and of datasets of `kb.data`.
    """

    def __init__(self, num_examples=None):
        super().__init__()
        if num_examples is not None:
            check_integer("num_examples", num_examples, 1)
        self.num_examples = num_examples

    def forget(self):
        """Forgets what was seen, for other data."""
        for variable in self._labels():
            variable.assign(ops.zeros_like(variable.value))

    def check(self, num_examples):
        if self.num_examples is None:
            self.num_examples = num_examples
        check_remembers(self, num_examples)

    def build(self):
        if self.num_examples is None:
            raise unknown_size(self)
        self._labels()
        self._strays()

    def observe(self, step):
        batch = step.batch
        ids = self.gather(self.ids(step))
        found = outputs_of(
            outputs.observed_network(self.model),
            batch.y,
            step.y_pred,
            batch.sample_weight,
        )
        # Compiled steps look up no id that is out of range, and say nothing.
        outside = (ids < 0) | (ids >= self.num_examples)
        strays = self._strays()
        strays.assign(strays.value + ops.sum(ops.cast(outside, "int32")))
        healthy = step.usable_examples()
        self._compare(ids, found, healthy)
        self.observe_examples(step, ids, found, healthy)

    def observe_examples(self, step, ids, found, healthy):
        """Takes note of the examples of one training step.

        Args:
            step: An `engine.Step`.
            ids: Integer tensor of the ids on all replicas.
            found: List of the `engine.compiled_losses.OutputLoss`es of this
                replica.
            healthy: Boolean tensor of shape `(batch_size,)`, the examples of
                this replica whose data were finite.
        """

    def ids(self, step):
        """Returns the ids of an `engine.Step`, `(batch_size,)`."""
        if step.batch.ids is None:
            raise without_ids(self)
        return check_ids(step.batch.ids, self.num_examples)

    def on_epoch_end(self, epoch, logs=None):
        strays = int(self._strays().numpy())
        if strays:
            raise ValueError(
                f"Expected example ids in [0, {self.num_examples}), as "
                f"`{type(self).__name__}` was made with num_examples="
                f"{self.num_examples}. Received: {strays} ids outside."
            )
        high, low = (variable.numpy() for variable in self._labels())
        changed = np.count_nonzero(
            (high > 0) & (high + low != fingerprints.LARGEST)
        )
        if changed:
            raise ValueError(
                "Expected ids that belong to the same example in each epoch, "
                f"for `{type(self).__name__}`. Received: {changed} ids with "
                "another label than before. Where ids are positions in a "
                "dataset, do not shuffle it before: pass `shuffle=False` to "
                "`image_dataset_from_directory` and its kin; "
                "`kb.data.stratified_batches` shuffles by itself. Or give each "
                "example an id of its own: a dataset of `(x, y, sample_weight, "
                "id)`. Start with a new history for other data."
            )

    def _strays(self):
        """Returns how many ids were out of range."""
        return self.variable("strays", (), "int32")

    def _labels(self):
        """Returns the highest fingerprint, and `LARGEST` minus the lowest."""
        # Both start at 0. A scattered maximum does not read the variable, which
        # would copy all of it for a few rows.
        shape = (self.num_examples,)
        high = self.variable("label_high", shape, "int32")
        return high, self.variable("label_low", shape, "int32")

    def _compare(self, ids, found, healthy):
        codes = [fingerprints.fingerprints(output) for output in found]
        if not codes:
            return
        known = ops.all(ops.stack(codes) != 0, axis=0) & healthy
        code = self.gather(ops.where(known, fingerprints.joined(codes), 0))
        high, low = self._labels()
        raise_rows(high, ids, code)
        raise_rows(
            low, ids, ops.where(code != 0, fingerprints.LARGEST - code, 0)
        )
