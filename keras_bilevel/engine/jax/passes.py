"""The gradients of shards, side by side or in turn.

Side by side, `jax.vmap` makes one pass of all. Each shard then begins with the
same state, and how they move it together follows from how each alone has moved
it, for those kinds of state that are known here. Any other network takes a pass
for each shard, in which a shard sees what those before it have moved.
"""

import dataclasses
import functools
from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import per_row
from keras_bilevel.data.batches import set_masks
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.jax import gradients
from keras_bilevel.engine.jax import kernels
from keras_bilevel.engine.jax import scope

# An odd number, so that its multiples are different 32-bit numbers.
_STRIDE = 0x9E3779B1


@dataclasses.dataclass
class Seen:
    """What the passes of one or more shards have given.

    Attributes:
        found: The loss of each shard and its predictions, and their masks.
        gradient: List with the gradient of each trainable variable, `Whole` or
            `Factors`.
        squares: List with the squared norm of each of them.
        changes: Dict from the ids of variables to their values after the pass.
        healthy: Boolean, whether loss, gradient and state are finite.
    """

    found: Any
    gradient: list
    squares: list
    changes: dict
    healthy: Any

    @property
    def losses(self):
        return self.found[0][0].astype("float32")

    def predictions(self):
        """Returns the predictions for all shards, in one batch."""
        (loss, y_pred), masks = self.found
        y_pred, masks = map_tensors(
            lambda t: t.reshape((-1, *t.shape[2:])), (y_pred, masks)
        )
        return set_masks((loss, y_pred), masks)[1]


jax.tree_util.register_dataclass(Seen)


class Passes:
    """A forward and a backward pass for each shard.

    Args:
        model: A built `BilevelModel`.
        weighting: The `ShardWeighting`.
        shards: Tuple `(x, y, sample_weight)` of tensors of shape
            `(num_shards, shard_size, ...)`.
        scale: The `LossScale`.

    Attributes:
        are_side_by_side: Boolean, whether the state of the network allows that.
        bytes_of_shard: How large the gradient of one shard is.
    """

    def __init__(self, model, weighting, shards, scale):
        self._model = model
        self._scale = scale
        self._seeds = state.seed_states(model)
        self._same_dropout = weighting.same_dropout
        self._before = scope.values()
        first = map_tensors(lambda t: t[0], shards)
        beside = functools.partial(self.one, beside=True)
        seen = jax.eval_shape(beside, first, {})
        self._moves = self._known_moves(self._last)
        self.are_side_by_side = self._last.updated.keys() <= self._moves.keys()
        if not self.are_side_by_side:
            seen = jax.eval_shape(self.one, first, {})
        self.bytes_of_shard = 4 * sum(
            tensor.size for tensor in jax.tree.leaves(seen.gradient)
        )

    def one(self, part, start, beside=False):
        """Returns what one shard gives.

        Args:
            part: Tuple `(x, y, sample_weight)`.
            start: Dict from the ids of variables to values to begin with, if
                they are others than those of the open scope.
            beside: Boolean, whether other shards are side by side with it.
        """

        def compute():
            y_pred, loss = losses.data_loss(self._model, part)
            return self._scale.up(loss), (loss, y_pred)

        run = gradients.Traced(
            compute,
            self._model.trainable_variables,
            {**self._before, **start},
        )
        if beside:
            gradient, seen = kernels.differentiate(
                run, run.point(), self._scale
            )
        else:
            gradient, seen = jax.grad(run, has_aux=True)(run.point())
            gradient = [kernels.Whole(self._scale.down(g)) for g in gradient]
        found, changes = seen
        self._last = run.scope
        scope.check_known(run.scope.updated, self._before)
        squares = [g.squared_norm() for g in gradient]
        healthy = jnp.isfinite(found[0][0]) & jnp.isfinite(sum(squares))
        for key, value in changes.items():
            before = start.get(key, self._before[key])
            fine = jnp.isfinite(value) | ~jnp.isfinite(before)
            healthy &= jnp.all(fine)
        return Seen(found, gradient, squares, changes, healthy)

    def all(self, shards):
        """Returns what all shards give, and settles the state."""
        if not self.are_side_by_side:
            now, seen = jax.lax.scan(self.turn, self.start(), shards)
            self.settle(now)
            return seen
        count = len(jax.tree.leaves(shards)[0])
        one = functools.partial(self.one, beside=True)
        seen = jax.vmap(one)(shards, self._seeds_of(count))
        for key, variable in self._last.updated.items():
            move = self._moves[key]
            before = self._before[key]
            moved = move(before, seen.changes[key], seen.healthy)
            variable.assign(moved.astype(before.dtype))
        return seen

    def start(self):
        """Returns the state that shards in turn begin with."""
        return {key: self._before[key] for key in self._last.updated}

    def turn(self, now, part):
        """Takes one shard's turn; the body of a `jax.lax.scan`.

        Args:
            now: Dict from the ids of variables to their values.
            part: Tuple `(x, y, sample_weight)` of the shard.

        Returns:
            Tuple of the values after it, and what the shard gives.
        """
        if self._same_dropout:
            first = {id(v): self._before[id(v)] for v in self._seeds}
            now = {**now, **{k: v for k, v in first.items() if k in now}}
        seen = self.one(part, now)
        now = {
            key: jnp.where(seen.healthy, seen.changes[key], value)
            for key, value in now.items()
        }
        return now, dataclasses.replace(seen, changes={})

    def settle(self, now):
        """Writes the state after all turns."""
        for key, variable in self._last.updated.items():
            variable.assign(now[key])

    def _seeds_of(self, count):
        """Returns the seeds that shards begin with, a dict."""
        if self._same_dropout:
            return {}
        number = jnp.arange(count, dtype="uint32") * jnp.uint32(_STRIDE)
        return {
            id(v): jnp.tile(v.value, (count, 1)).at[:, 0].add(number)
            for v in self._seeds
        }

    def _known_moves(self, last):
        """Returns how shards move state together, a dict from ids.

        Each is a function of the value before, of the values after each shard
        alone, and of which shards count.
        """
        moves = {id(v): _seed for v in self._seeds}
        moves |= {id(v): _sum for v in state.loss_trackers(self._model)}
        for layer in keras_private.all_layers(self._model):
            if type(layer) is not keras.layers.BatchNormalization:
                continue
            for variable in (layer.moving_mean, layer.moving_variance):
                times = last.updates[id(variable)]
                # It is read once more if it normalises, in inference mode.
                if last.reads[id(variable)] == times:
                    moves[id(variable)] = _average(layer.momentum**times)
        return moves


def _seed(before, after, healthy):
    """The first shard has the seed itself."""
    return after[0]


def _sum(before, after, healthy):
    added = jnp.where(per_row(healthy, after), after - before, 0)
    return before + jnp.sum(added, axis=0)


def _average(momentum):
    def move(before, after, healthy):
        # From a to m a + b_i for each healthy i in turn is m^n a +
        # sum_i m^(n - i) b_i.
        counts = healthy.astype("float32")
        passed = jnp.cumsum(counts)
        later = momentum ** (passed[-1] - passed)
        own = after - momentum * before
        own = jnp.where(per_row(healthy, own), own, 0.0) * per_row(later, own)
        return momentum ** passed[-1] * before + jnp.sum(own, axis=0)

    return move
