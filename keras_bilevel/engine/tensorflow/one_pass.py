"""The gradients of all shards from one pass over the super-batch.

Where no layer mixes the examples of different shards, one forward and one
backward pass over the whole super-batch give the outputs of all layers and the
deltas of all shards. Only the last part belongs to single shards: a layer's
gradient from its inputs and the deltas of its outputs.
"""

import collections
import functools
import logging
import math

import tensorflow as tf

from keras_bilevel.data.batches import map_rows
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.engine import compiled_losses
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.step import group_finder
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import calls
from keras_bilevel.engine.tensorflow import known_layers
from keras_bilevel.engine.tensorflow import shapes
from keras_bilevel.engine.tensorflow import shard_norms


def can_share(model, weighting):
    """Returns whether one pass gives the same as a pass for each shard.

    Args:
        model: A built `BilevelModel`.
        weighting: A `ShardWeighting`.
    """
    if weighting.same_dropout:
        log_reason("`same_dropout` draws one mask for all shards")
        return False
    layer = known_layers.first_unknown(model.model, known_layers.SHARD_BY_SHARD)
    if layer is not None:
        log_reason(f"`{layer.name}` ({type(layer).__name__}) may mix examples")
    return layer is None


@functools.cache
def log_reason(reason):
    """Logs, once, why a network takes a pass for each shard.

    Args:
        reason: String.
    """
    logging.getLogger("keras_bilevel").debug(
        "Deep Bilevel Learning takes a pass for each shard: %s.", reason
    )


class OnePass:
    """A forward and a backward pass over all shards.

    Args:
        model: A built `BilevelModel` for which `can_share`.
        weighting: The `ShardWeighting`.
        shards: Tuple `(x, y, sample_weight)` of tensors of shape
            `(num_shards, shard_size, ...)`.
        scale: The `LossScale`.

    Attributes:
        whole: List of the `Factors` and `Stack`s of those layers whose
            variables `gradient` leaves out.
        meets: Boolean, whether `gradient` waits for other replicas.
        moving: The variables that `gradient` changes.
        num_calls: Integer, the calls of layers that `gradient` goes through.
    """

    meets = False
    moving = ()

    def __init__(self, model, weighting, shards, scale):
        self._count = weighting.num_shards
        self._variables = model.trainable_variables
        self._scale = scale
        self._norms = shard_norms.ShardNorms(self._count)
        with (
            tf.GradientTape() as tape,
            calls.recorded(
                model.model, self._variables, self._norms
            ) as recorded,
        ):
            x, y, sample_weight = map_tensors(
                lambda t: shapes.regrouped(t, (-1,), 2), shards
            )
            self._y_pred = model(x, training=True)
            parts = None
            if not losses.has_other_parts(model):
                parts = compiled_losses.of_parts(
                    model, y, self._y_pred, sample_weight, self._count
                )
            if parts is None:
                parts = self._losses_of_shards(model, shards)
            total = scale.up(tf.reduce_sum(parts))
        # A shard that would spoil moving averages is not finite.
        self._losses = tf.where(self._norms.finite(), parts, float("nan"))
        normal, copies = self._norms.copies_of(self._variables)
        deltas, slopes = tape.gradient(
            total, ([call.output for call in recorded], copies)
        )
        # What the loss does not reach has no gradient.
        self._rows = {
            id(variable): scale.down(rows)
            for variable, rows in zip(normal, slopes)
            if rows is not None
        }
        pairs = [
            (call, self._cut(delta))
            for call, delta in zip(recorded, deltas)
            if delta is not None
        ]
        self.whole, self._calls = [], []
        if "gram" in weighting.statistics:
            # The Gram matrix needs the gradients themselves.
            self._calls = pairs
        else:
            self._take_apart(pairs)
            self._stack(group_finder(model, weighting.per_layer))
        self.num_calls = len(self._calls)

    def _losses_of_shards(self, model, shards):
        trackers = state.loss_trackers(model)
        found = []
        for part, y_pred in zip(
            _unstack(shards, self._count),
            _unstack(map_rows(self._cut, self._y_pred), self._count),
        ):
            # A non-finite shard must not stay in the loss trackers of outputs.
            with state.finite_only(trackers):
                found.append(losses.data_loss_of(model, part, y_pred))
        return tf.stack(found)

    def _cut(self, batch):
        """Reshapes one batch to `(num_shards, shard_size, ...)`."""
        return shapes.regrouped(batch, (self._count, -1))

    def _take_apart(self, pairs):
        """Takes apart calls whose gradients are had at once from all others."""
        times = collections.Counter(id(call.layer) for call, _ in pairs)
        for call, deltas in pairs:
            factors = None
            if times[id(call.layer)] == 1:
                factors = at_once.Factors.of(call, deltas)
            if factors is not None and factors.are_smaller():
                self.whole.append(factors.unscaled(self._scale))
            else:
                self._calls.append((call, deltas))
        if not at_once.prefers_loops():
            self._unroll()

    def _unroll(self):
        """Gives calls rows, small ones first, as long as there is room.

        Rows are gradients of all shards. They may be as many numbers as the
        deltas are, which the pass holds in any case.
        """
        layers = collections.defaultdict(list)
        for call, deltas in self._calls:
            layers[call.layer].append((call, deltas))
        room = sum(d.shape.num_elements() or 0 for _, d in self._calls)
        sizes = {
            layer: self._count
            * sum(math.prod(v.shape) for v in pairs[0][0].variables)
            for layer, pairs in layers.items()
        }
        self._calls = []
        for layer in sorted(layers, key=sizes.get):
            room -= sizes[layer]
            for call, deltas in layers[layer]:
                if room < 0:
                    self._calls.append((call, deltas))
                    continue
                rows = at_once.rows_of(call, self._cut, deltas)
                for variable, part in zip(call.variables, rows):
                    before = self._rows.get(id(variable), 0.0)
                    part = before + self._scale.down(part)
                    self._rows[id(variable)] = part

    def _stack(self, group_of):
        """Makes a `Stack` for each group of variables that have rows."""
        groups = collections.defaultdict(list)
        for variable in self._variables:
            if id(variable) in self._rows:
                groups[group_of(variable)].append(variable)
        for variables in groups.values():
            rows = [self._rows.pop(id(variable)) for variable in variables]
            self.whole.append(at_once.Stack(variables, tf.concat(rows, axis=1)))

    def gradient(self, index):
        """Returns loss and gradient of one shard.

        Args:
            index: Integer or integer scalar tensor. If `whole` has all layers,
                it may be a slice of several shards.

        Returns:
            Tuple of the scalar loss, a list with the gradient of each
            trainable variable, float32 and without the scale, and an empty
            dict. The gradient is `None` for variables that the loss does not
            reach, and for those in `whole`.
        """
        parts = [
            (
                call,
                call.gradient_of_rows(
                    lambda t: self._cut(t)[index], deltas[index]
                ),
            )
            for call, deltas in self._calls
        ]
        gradient = calls.summed(parts, self._variables)
        gradient = [self._scale.down(g) for g in gradient]
        for place, variable in enumerate(self._variables):
            if id(variable) in self._rows:
                gradient[place] = self._rows[id(variable)][index]
        return self._losses[index], gradient, {}

    def settle(self, healthy):
        """Moves moving averages by the shards that are healthy.

        Args:
            healthy: Boolean tensor of shape `(num_shards,)`.
        """
        self._norms.settle(healthy)

    def predictions(self, kept):
        """Returns the predictions for the whole super-batch."""
        return self._y_pred


def _unstack(structure, count):
    """Returns a list with the `count` rows of a structure of tensors.

    Masks and logits are split with their predictions.
    """
    rows = {}

    def row(tensor, i):
        if id(tensor) not in rows:
            rows[id(tensor)] = tf.unstack(tensor, count)
        return rows[id(tensor)][i]

    return [map_rows(lambda t: row(t, i), structure) for i in range(count)]
