"""One weighted gradient from the shards of a super-batch."""

import jax
from jax import numpy as jnp

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import per_row
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine import step
from keras_bilevel.engine.jax.kernels import EXACT
from keras_bilevel.engine.jax.passes import Passes

# How many bytes the gradients of all shards may have to be held together: this,
# or a share of the accelerator's memory if that is more.
_MOST_BYTES = 512 * 2**20
_SHARE = 1 / 16


def walk(model, weighting, batch, scale):
    """Computes the weighted sum of the gradients of a super-batch's shards.

    Args:
        model: A built `BilevelModel`.
        weighting: A `ShardWeighting`.
        batch: A `Batch` of `num_shards * shard_size` examples, shard after
            shard, validation shards first.
        scale: The `LossScale`.

    Returns:
        A `Step`.
    """
    variables = model.trainable_variables
    shards = _cut(batch, weighting.num_shards)
    passes = Passes(model, weighting, shards, scale)
    weigher = _Weigher(model, weighting, scale)
    held = weighting.num_shards * passes.bytes_of_shard
    if held <= _most_bytes() or "gram" in weighting.statistics:
        seen = passes.all(shards)
        weights, total = weigher.of_all(seen)
    else:
        seen, weights, total = weigher.in_turn(passes, shards)
    # 1 / |w|_1 multiplies the sum, as single gradients may be gone by now.
    factors = step.normalizer(weighting, weights)
    return step.Step(
        variables=variables,
        gradients=weigher.scaled(total, factors),
        weights=step.finite_or_zero(weights * factors[:, None]),
        losses=jnp.where(seen.healthy, seen.losses, 0.0),
        has_loss=seen.healthy,
        dropped=~seen.healthy,
        batch=batch,
        y_pred=seen.predictions(),
    )


class _Weigher:
    """Compares, weighs and sums gradients, each group of variables by itself.

    Args:
        model: A built `BilevelModel`.
        weighting: A `ShardWeighting`.
        scale: The `LossScale`.
    """

    def __init__(self, model, weighting, scale):
        self._weighting = weighting
        self._scale = scale
        self._split = weighting.num_validation_shards
        group_of = step.group_finder(model, weighting.per_layer)
        numbers = {}
        self._groups = [
            numbers.setdefault(group_of(variable), len(numbers))
            for variable in model.trainable_variables
        ]
        self._count = len(numbers)

    def of_all(self, seen):
        """Weighs gradients that are all there.

        Args:
            seen: A `Seen` of all shards.

        Returns:
            Tuple of the weights of the lower shards, `(groups, shards)`, and of
            their weighted sum, both not normalised.
        """
        healthy = seen.healthy[self._split :]
        upper = self._upper(seen)
        weights = self._weigh(
            healthy,
            seen.losses[None, self._split :],
            # <g_v, g_i>, the numerator of Eq. 10.
            # Of all shards, since the lower ones alone would be a copy.
            alignment=self._of_lower(
                [g.alignments(u) for g, u in zip(seen.gradient, upper)],
                healthy,
            ),
            norm=self._of_lower(seen.squares, healthy),
            gram=self._gram(seen),
        )
        return weights, self._total(weights, seen)

    def _of_lower(self, values, healthy):
        """Returns the sums of values in each group, `(groups, shards)`.

        Args:
            values: List with a tensor of shape `(num_shards,)` for each
                variable.
            healthy: Boolean tensor, which of the lower shards count.
        """
        sums = [0.0] * self._count
        for group, value in zip(self._groups, values):
            sums[group] += value[self._split :]
        return self._scale.mask(healthy, jnp.stack(sums))

    def _total(self, weights, seen):
        """Returns the weighted sum of the lower shards' gradients."""
        weights = jnp.pad(weights, ((0, 0), (self._split, 0)))
        gradient = seen.gradient
        # Eq. 11.
        total = [
            g.weighted_sum(weights[group])
            for group, g in zip(self._groups, gradient)
        ]
        if self._scale.is_dynamic:
            return total
        # The weight of a shard that is not healthy is 0, but 0 times NaN is
        # NaN. If there is one, the others are added one by one. (A condition
        # would copy all gradients, and so would a mask.)
        are_healthy = seen.healthy.all()

        def add(shard, total):
            one = jax.tree.map(lambda t: t[shard][None], gradient)
            weight = weights[:, shard][:, None]
            return [
                jnp.where(
                    seen.healthy[shard], t + g.weighted_sum(weight[group]), t
                )
                for t, group, g in zip(total, self._groups, one)
            ]

        count = jnp.where(are_healthy, 0, len(seen.healthy))
        zeros = [jnp.zeros_like(t) for t in total]
        picked = jax.lax.fori_loop(0, count, add, zeros)
        return [jnp.where(are_healthy, t, p) for t, p in zip(total, picked)]

    def in_turn(self, passes, shards):
        """Weighs each shard in its turn, so that one gradient is held.

        Args:
            passes: The `Passes`.
            shards: As for `Passes`.

        Returns:
            Tuple of a `Seen` of all shards, without gradients, and of what
            `of_all` returns.
        """
        first, rest = (
            map_tensors(lambda t, part=part: t[part], shards)
            for part in (slice(self._split), slice(self._split, None))
        )
        now, upper = jax.lax.scan(passes.turn, passes.start(), first)
        ones = jnp.ones(self._split)
        judge = [g.weighted_sum(ones) for g in self._upper(upper)]

        def turn(carry, part):
            now, total = carry
            now, seen = passes.turn(now, part)
            one = jax.tree.map(lambda t: t[None], seen)
            gradient = [g.tensor[0] for g in self._masked(one)]
            weights = self._weigh(
                one.healthy,
                one.losses[None],
                alignment=self._products(gradient, judge)[:, None],
                norm=self._products(gradient, gradient)[:, None],
            )[:, 0]
            part = self.scaled(gradient, weights)
            total = [t + p for t, p in zip(total, part)]
            seen.gradient, seen.squares = [], []
            return (now, total), (seen, weights)

        zeros = [jnp.zeros_like(g) for g in judge]
        (now, total), (lower, weights) = jax.lax.scan(turn, (now, zeros), rest)
        passes.settle(now)
        upper.gradient, upper.squares = [], []
        seen = jax.tree.map(lambda *t: jnp.concatenate(t), upper, lower)
        return seen, weights.T, total

    def scaled(self, gradient, factors):
        """Multiplies each group by its factor; 0 gives 0 in any case."""
        return [
            jnp.where(factors[group] != 0, g * factors[group], 0.0)
            for group, g in zip(self._groups, gradient)
        ]

    def _upper(self, seen):
        """Returns the gradients of the validation shards."""
        return self._masked(jax.tree.map(lambda t: t[: self._split], seen))

    def _masked(self, seen):
        """Returns the gradients of shards, 0 for those that are not healthy."""

        def mask(tensor):
            return self._scale.mask(per_row(seen.healthy, tensor), tensor)

        return jax.tree.map(mask, seen.gradient)

    def _weigh(self, healthy, loss, **statistics):
        """Returns the weights of shards, `(groups, shards)`."""
        statistics["loss"] = self._scale.mask(healthy, loss)
        weights = step.weights_of(self._weighting, statistics)
        weights = jnp.broadcast_to(weights, (self._count, len(healthy)))
        return self._scale.mask(healthy, weights)

    def _products(self, a, b):
        """Returns the inner product in each group, `(groups,)`."""
        sums = [0.0] * self._count
        for group, x, y in zip(self._groups, a, b):
            sums[group] += jnp.vdot(x, y, precision=EXACT)
        return jnp.stack(sums)

    def _gram(self, seen):
        """Returns the inner products among shards, `(groups, shards, shards)`.

        `None` where nothing asks for them.
        """
        if "gram" not in self._weighting.statistics:
            return None
        lower = jax.tree.map(lambda t: t[self._split :], seen)
        sums = [0.0] * self._count
        for group, g in zip(self._groups, self._masked(lower)):
            sums[group] += g.products()
        return jnp.stack(sums)


def _most_bytes():
    # `None` on a CPU.
    memory = jax.local_devices()[0].memory_stats() or {}
    return max(_MOST_BYTES, _SHARE * memory.get("bytes_limit", 0))


def _cut(batch, num_shards):
    """Reshapes `(num_shards * shard_size, ...)` to one row per shard."""
    parts = (batch.x, batch.y, batch.sample_weight)
    for tensor in tensors(parts):
        if tensor.shape[0] % num_shards:
            raise ValueError(
                step.NOT_A_MULTIPLE.format(
                    num_shards=num_shards, size=tensor.shape[0]
                )
            )
    return map_tensors(
        lambda t: t.reshape((num_shards, -1, *t.shape[1:])), parts
    )
