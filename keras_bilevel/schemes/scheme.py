"""Base classes of schemes: batches, checks, the step and its logs.

`fit` and `train_step` are the same for all methods of this package. A scheme
has what differs between weighing shards, weighing examples and selecting
examples.
"""

import keras
from keras import ops

from keras_bilevel import engine
from keras_bilevel import keras_private


class Scheme:
    """Makes, checks and reads batches; takes a step, and logs it.

    Args:
        model: The `keras.Model` that is trained.

    Attributes:
        metrics: List of `keras.metrics.Metric` of training steps only;
            `evaluate` ignores them.
        hidden_metrics: List of further metrics, which are not shown.
    """

    def __init__(self, model):
        self.model = model
        self.metrics = []
        self.hidden_metrics = []

    @property
    def variables(self):
        """All variables of the scheme, a list of `keras.Variable`."""
        metrics = [*self.metrics, *self.hidden_metrics]
        return [v for metric in metrics for v in metric.variables]

    @property
    def num_replicas(self):
        return engine.replicas_of(self.model)

    def batches(self, part, batch_size, **options):
        """Returns the dataset of batches of `fit` on arrays.

        Args:
            part: Tuple `(x, y, sample_weight)`, the last may be `None`.
            batch_size: Integer, examples of a step on all replicas.
            **options: `shuffle`, `steps_per_epoch` and `seed`, as those of
                `kb.data`'s datasets.
        """
        raise NotImplementedError

    def check(self, dataset):
        """Raises `ValueError` for data that do not suit the method.

        Args:
            dataset: What `fit` takes, a `tf.data.Dataset` or anything else.

        Returns:
            The dataset, to which a check of each batch may have been added.
        """
        return dataset

    def check_epochs(self, epochs):
        """Raises `ValueError` for a number of epochs that does not suit."""

    def begin_epoch(self, epoch):
        """Is called with the number of the epoch that begins."""

    def watching(self, part, batch_size):
        """Returns callbacks that watch a run of `fit` on arrays, a list."""
        return []

    def callbacks(self, dataset):
        """Returns callbacks that every run of `fit` needs, a list."""
        return []

    def parse(self, batch):
        """Reads a batch of `fit`.

        Returns:
            List of tuples of a `Wrapper` and the `Batch` that it sees.
        """
        raise NotImplementedError

    def build(self, parts):
        """Builds the networks that are not built yet, from the first batch.

        Args:
            parts: What `parse` returned.
        """
        for network, batch in parts:
            if not network.built:
                network.build_on(batch.x)
        self.model.built = True

    def loss_inputs(self, batch):
        """Returns `(x, y, sample_weight)` as the loss and metrics get it.

        Args:
            batch: A batch of `fit`, `evaluate` or `train_on_batch`, or its
                `element_spec`.
        """
        # Ids may come fourth.
        parts = batch[:3] if isinstance(batch, tuple) else batch
        return keras.utils.unpack_x_y_sample_weight(parts)

    def step(self, parts, scale):
        """Computes the gradient of one step, without updating any network.

        Args:
            parts: What `parse` returned.
            scale: The `engine.LossScale`.

        Returns:
            An `engine.Step`.
        """
        raise NotImplementedError

    def shown(self, step):
        """Returns what metrics and the progress bar show of a step.

        Returns:
            Tuple of a `Batch`, the predictions for it, losses, and how much
            each loss counts in the mean that is shown.
        """
        raise NotImplementedError

    def update(self, step):
        """Updates the metrics of training steps."""
        raise NotImplementedError

    def log(self, step):
        """Updates all metrics from a step, and returns a dict of results."""
        batch, y_pred, losses, counts = self.shown(step)
        keras_private.loss_tracker(self.model).update_state(
            losses, sample_weight=counts
        )
        self.update(step)
        logs = self.model.compute_metrics(
            batch.x, batch.y, y_pred, sample_weight=batch.sample_weight
        )
        return {**logs, **self.results()}

    def results(self):
        return {metric.name: metric.result() for metric in self.metrics}

    def reset(self):
        for metric in [*self.metrics, *self.hidden_metrics]:
            metric.reset_state()


class WeighingScheme(Scheme):
    """Shows the effects of a weighting in the progress bar.

    - `negative_weights`: the fraction of negative weights.
    - `effective_shards` (`effective_examples`): `1 / sum_i w_i^2` for
      normalised weights: 1 where one unit decides the step, the number of
      units where all weigh the same.
    - `dropped_shards` (`dropped_examples`): count of units whose loss or
      gradient was not finite.

    Args:
        model: A `BilevelModel`.
        unit: String, `"shard"` or `"example"`.
    """

    def __init__(self, model, unit):
        super().__init__(model)
        self.negative = keras.metrics.Mean(name="negative_weights")
        self.effective = keras.metrics.Mean(name=f"effective_{unit}s")
        self.dropped = keras.metrics.Sum(name=f"dropped_{unit}s")
        self.metrics = [self.negative, self.effective, self.dropped]

    def update(self, step):
        self.negative.update_state(ops.cast(step.weights < 0, "float32"))
        self.effective.update_state(engine.effective_units(step.weights))
        self.dropped.update_state(ops.cast(step.dropped, "float32"))


class OutputTrackers:
    """Tracks the loss of each output in line with the total loss.

    Keras updates these trackers whenever a loss is computed, with whatever
    weights the examples have at that time. Such updates are undone.

    Args:
        model: A compiled `keras.Model`.
    """

    def __init__(self, model):
        self._loss = keras_private.compiled_losses(model)
        metrics = [] if self._loss is None else self._loss.metrics
        self._variables = [v for m in metrics for v in m.variables]
        self._before = engine.read(self._variables)

    def update(self, step):
        """Adds the losses of an `engine.Step`, unless all of it was dropped."""
        if step.shown is None or not self._variables:
            return
        y, y_pred, sample_weight = step.shown
        engine.write(self._variables, self._before)
        is_seen = ops.any(~step.dropped)
        is_seen &= ops.any(step.weights != 0)
        with engine.finite_only(self._variables, is_seen):
            self._loss(y, y_pred, sample_weight)
