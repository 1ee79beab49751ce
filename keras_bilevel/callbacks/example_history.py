"""Which labels to look at, from the predictions made while training."""

import numpy as np
import tensorflow as tf

from keras_bilevel.callbacks import labels
from keras_bilevel.callbacks.example_observer import ExampleObserver
from keras_bilevel.gradients import gather


class ExampleHistory(ExampleObserver):
    """Keeps the running probability of each example's given label.

    The predictions are the training steps' own: there is no extra pass. An
    example whose label the network does not come to believe, because other
    examples' gradients never agreed with it, is a suspect.

    It needs ids: `fit` on arrays gives them (the row numbers);
    `kb.data.stratified_batches` does with `ids=True`.

    Args:
        num_examples: Integer, ids are in `[0, num_examples)`.
        output: Name or index of the output to watch, where there are several.
            Defaults to `None`.

    Attributes:
        given_probability: Float array of shape `(num_examples,)`, the mean
            over all visits; NaN where an example was never visited.

    Example:

    ```python
    history = kb.callbacks.ExampleHistory(len(x))
    model.fit(x, y, batch_size=128, epochs=30, callbacks=[history])
    look_at = history.suspects()[:100]
    ```
    """

    def __init__(self, num_examples, output=None):
        super().__init__(num_examples)
        self.output = output

    def build(self):
        self._kept()

    def _kept(self):
        shape = (self.num_examples,)
        sums = self.variable("sum", shape, "float32")
        return sums, self.variable("visits", shape, "int32")

    def observe(self, step):
        ids, batch = self.ids(step), step.batch
        y, y_pred, loss = batch.y, step.y_pred, self.model.loss
        if self.output is not None:
            y, y_pred = y[self.output], y_pred[self.output]
            loss = loss[self.output] if hasattr(loss, "keys") else loss
        probability = labels.given_probability(
            y, y_pred, labels.predicts_logits(loss)
        )
        self._add(gather(ids), gather(probability))

    def _add(self, ids, probability):
        finite = tf.math.is_finite(probability)
        probability = tf.where(finite, probability, 0.0)
        sums, visits = self._kept()
        sums.value.scatter_add(tf.IndexedSlices(probability, ids))
        visits.value.scatter_add(
            tf.IndexedSlices(tf.cast(finite, tf.int32), ids)
        )

    @property
    def given_probability(self):
        sums, visits = (variable.numpy() for variable in self._kept())
        return np.where(visits > 0, sums / np.maximum(visits, 1), np.nan)

    @property
    def example_scores(self):
        """What `kb.report` ranks by."""
        return self.given_probability

    def suspects(self):
        """Returns the ids of all visited examples, most suspect first."""
        probability = self.given_probability
        order = np.argsort(probability, kind="stable")
        return order[~np.isnan(probability[order])]
