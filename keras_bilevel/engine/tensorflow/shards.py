"""One weighted gradient from the shards of a super-batch.

Shards are processed one by one. Unless the weighting asks for the Gram matrix,
each gradient is added to a running sum immediately, so that memory does not
grow with the number of shards.
"""

import functools

import keras
import tensorflow as tf

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.data.batches import tensors
from keras_bilevel.engine import state
from keras_bilevel.engine.step import NOT_A_MULTIPLE
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.step import finite_or_zero
from keras_bilevel.engine.step import normalizer
from keras_bilevel.engine.step import weights_of
from keras_bilevel.engine.tensorflow import one_pass
from keras_bilevel.engine.tensorflow import replicas
from keras_bilevel.engine.tensorflow import shapes
from keras_bilevel.engine.tensorflow import shard_norms
from keras_bilevel.engine.tensorflow import vectors
from keras_bilevel.engine.tensorflow.own_passes import OwnPasses


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
    keeps_gradients = "gram" in weighting.statistics
    if keeps_gradients and replicas.num_replicas() > 1:
        raise ValueError(
            "Expected a weighting without the Gram matrix under several "
            "replicas: the gradients of other replicas' shards are not here. "
            f"Received: statistics={weighting.statistics}. Use "
            "`solver='diagonal'`, or one replica."
        )
    shards = _Shards(model, weighting, batch, scale)
    split = weighting.num_validation_shards
    validating, upper = zip(*(shards.visit(index) for index in range(split)))
    judge, whole_alignments = shards.judge(validating, upper)

    if shards.packing.is_empty:
        # All gradients are had at once: no loop over shards is needed.
        _, lower = shards.visit(slice(split, None))
        lower["alignment"] = whole_alignments[split:]
        lower["weights"] = tf.transpose(shards.weigh_all(lower))
        return shards.step([], upper, lower)

    def turn(index, total):
        gradient, seen = shards.visit(index + split)
        # <g_v, g_i>, the numerator of Eq. 10.
        seen["alignment"] = shards.packing.inner_products(gradient, judge)
        seen["alignment"] += whole_alignments[index + split]
        if keeps_gradients:
            return total, {**seen, "gradient": gradient}
        weights = shards.weigh(seen)
        # Eq. 11: one term of the sum, not normalised yet.
        part = shards.packing.scale(gradient, weights)
        total = [t + p for t, p in zip(total, part)]
        return total, {**seen, "weights": weights}

    like = {**upper[0], "alignment": upper[0]["norm"]}
    like.update(
        {"gradient": judge} if keeps_gradients else {"weights": like["norm"]}
    )
    total, lower = vectors.fold(
        turn,
        [tf.zeros_like(g) for g in judge],
        weighting.num_shards - split,
        like,
        calls=shards.passes.num_calls,
        # Replicas cannot wait for one another inside a `tf.while_loop`.
        unroll=shards.passes.meets,
    )
    if keeps_gradients:
        total, lower["weights"] = shards.solve(lower)
    return shards.step(total, upper, lower)


class _Shards:
    """Computes single shards, and holds what they have in common."""

    def __init__(self, model, weighting, batch, scale):
        self.model = model
        self.weighting = weighting
        self.batch = batch
        self.scale = scale
        self.packing = None
        shards = _cut(batch, weighting.num_shards)
        self.passes = _passes(model, weighting, shards, scale)

    def visit(self, index):
        """Returns the packed gradient of one shard, and its statistics by name.

        Args:
            index: As for `OnePass.gradient`.
        """
        moving = self.passes.moving
        before = state.read(moving)
        loss, gradient, kept = self.passes.gradient(index)
        if self.packing is None:
            self._pack_as(gradient)
        gradient = self.packing.pack(gradient)
        norm = self.packing.inner_products(gradient, gradient)
        norm += self.whole_norms[index]
        healthy = tf.math.is_finite(loss)
        healthy &= tf.reduce_all(tf.math.is_finite(norm), axis=-1)
        healthy &= ~state.spoiled(moving, before)
        state.restore_unless(healthy, moving, before)
        loss = tf.cast(loss, tf.float32)
        seen = {"kept": kept, "loss": loss, "norm": norm, "healthy": healthy}
        return gradient, seen

    def _pack_as(self, gradient):
        whole = self.passes.whole
        self.packing = vectors.Packing(
            self.model,
            gradient,
            self.weighting.per_layer,
            apart={id(v) for call in whole for v in call.variables},
        )
        self.whole_norms = self._whole_statistic(c.norms() for c in whole)

    def _whole_statistic(self, values):
        """Sums a statistic of `passes.whole` over each group.

        Args:
            values: Iterable of a tensor of shape `(num_shards,)` for each.

        Returns:
            Tensor of shape `(num_shards, groups)`.
        """
        sums = [tf.zeros(self.weighting.num_shards)] * self.packing.num_groups
        for call, value in zip(self.passes.whole, values):
            sums[self.packing.group_of(call.variables[0])] += value
        return tf.stack(sums, axis=1)

    def _whole_sums(self, weights, shards):
        """Returns the weighted sums of `passes.whole`, a list for each.

        Args:
            weights: Tensor of shape `(groups, units)`.
            shards: Slice, the shards that these units are.
        """
        return [
            call.weighted_sum(
                weights[self.packing.group_of(call.variables[0])], shards
            )
            for call in self.passes.whole
        ]

    def judge(self, validating, upper):
        """Sums the upper level's gradients over its shards and all replicas.

        Args:
            validating: List of the gradients of the validation shards.
            upper: List of their statistics, from `visit`.

        Returns:
            Tuple of the packed part of the upper-level gradient g_v, and of all
            shards' alignments with its other part, that of `passes.whole`,
            `(num_shards, groups)`.
        """
        masked = [
            [self.scale.mask(seen["healthy"], g) for g in gradient]
            for seen, gradient in zip(upper, validating)
        ]
        packed = [tf.add_n(vectors) for vectors in zip(*masked)]
        healthy = tf.stack([seen["healthy"] for seen in upper])
        weights = self.scale.mask(
            healthy, tf.ones((self.packing.num_groups, len(upper)))
        )
        calls = self.passes.whole
        if replicas.num_replicas() == 1:
            alignments = [
                call.judged_by(
                    weights[self.packing.group_of(call.variables[0])]
                )
                for call in calls
            ]
        else:
            whole = self._whole_sums(weights, slice(len(upper)))
            packed, whole = replicas.reduce_sum((packed, whole))
            alignments = [c.alignments(u) for c, u in zip(calls, whole)]
        return packed, self._whole_statistic(alignments)

    def weigh(self, seen):
        """Returns the weight of one shard in each group, not normalised."""
        statistics = {
            name: tf.reshape(seen[name], (-1, 1))
            for name in self.weighting.statistics
        }
        weights = weights_of(self.weighting, statistics)[:, 0]
        # Those of the loss alone are one for all groups.
        weights = tf.broadcast_to(weights, (self.packing.num_groups,))
        return self.scale.mask(seen["healthy"], weights)

    def weigh_all(self, seen, gram=None):
        """Returns the weights of all shards, `(groups, shards)`."""
        healthy = seen["healthy"]
        statistics = {
            name: self.scale.mask(healthy, tf.transpose(seen[name]))
            for name in ("alignment", "norm")
        }
        statistics["loss"] = self.scale.mask(healthy, seen["loss"])[None]
        statistics["gram"] = gram
        weights = weights_of(self.weighting, statistics)
        shape = (self.packing.num_groups, healthy.shape[0])
        return self.scale.mask(healthy, tf.broadcast_to(weights, shape))

    def solve(self, seen):
        """Weighs all shards by their Gram matrix, and sums their gradients."""
        healthy = seen["healthy"][:, None]
        stacked = [self.scale.mask(healthy, g) for g in seen["gradient"]]
        gram = tf.stack([tf.matmul(g, g, transpose_b=True) for g in stacked])
        weights = self.weigh_all(seen, gram=gram)
        # Eq. 11.
        total = [tf.tensordot(weights[i], g, 1) for i, g in enumerate(stacked)]
        return total, tf.transpose(weights)

    def step(self, total, upper, lower):
        """Normalises the weights and collects the results of all shards."""
        weights = tf.transpose(lower["weights"])
        # 1 / |w|_1 multiplies the sum: single gradients are gone by now.
        factors = normalizer(self.weighting, weights)
        split = slice(self.weighting.num_validation_shards, None)
        # Eq. 11 for `passes.whole`.
        whole = self._whole_sums(weights * factors[:, None], split)
        own = {
            id(variable): part
            for call, parts in zip(self.passes.whole, whole)
            for variable, part in zip(call.variables, parts)
        }
        variables = self.model.trainable_variables
        summed = self.packing.unpack(self.packing.scale(total, factors))
        kept, loss, healthy = (
            keras.tree.map_structure(
                lambda last, *first: tf.concat([tf.stack(first), last], 0),
                lower[name],
                *(seen[name] for seen in upper),
            )
            for name in ("kept", "loss", "healthy")
        )
        self.passes.settle(healthy)
        return Step(
            variables=variables,
            gradients=[own.get(id(v), g) for v, g in zip(variables, summed)],
            weights=finite_or_zero(weights * factors[:, None]),
            losses=tf.where(healthy, loss, 0.0),
            has_loss=healthy,
            dropped=~healthy,
            batch=self.batch,
            y_pred=self.passes.predictions(kept),
        )


def _passes(model, weighting, shards, scale):
    if one_pass.can_share(model, weighting):
        try:
            return one_pass.OnePass(model, weighting, shards, scale)
        except shard_norms.MixedModesError as error:
            # Each shard has to see what those before it have moved.
            one_pass.log_reason(str(error))
    return OwnPasses(model, weighting, shards, scale)


def _cut(batch, num_shards):
    """Reshapes `(num_shards * shard_size, ...)` to one row per shard."""
    parts = (batch.x, batch.y, batch.sample_weight)
    message = functools.partial(NOT_A_MULTIPLE.format, num_shards=num_shards)
    checks = []
    for tensor in tensors(parts):
        size = tensor.shape[0]
        if size is None:
            # From a generator, the size is known only when the batch is read.
            check = tf.debugging.assert_equal(
                tf.shape(tensor)[0] % num_shards,
                0,
                message(size="another size"),
            )
            checks.append(check)
        elif size % num_shards:
            raise ValueError(message(size=size))
    with tf.control_dependencies(checks):
        return map_tensors(
            lambda t: shapes.regrouped(t, (num_shards, -1)), parts
        )
