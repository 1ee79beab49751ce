"""One weighted gradient from the shards of a super-batch.

Shards are walked one by one. Unless the weighting asks for the Gram matrix,
each gradient is folded into a running sum at once, so that memory does not
grow with the number of shards.
"""

import keras
import tensorflow as tf

from keras_bilevel.engine import losses
from keras_bilevel.engine import one_pass
from keras_bilevel.engine import replicas
from keras_bilevel.engine import state
from keras_bilevel.engine import vectors
from keras_bilevel.engine.loop import fold
from keras_bilevel.engine.normalize import finite_or_zero
from keras_bilevel.engine.normalize import normalizer
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.structure import get_masks
from keras_bilevel.engine.structure import map_tensors
from keras_bilevel.engine.structure import set_masks
from keras_bilevel.engine.structure import tensors


def walk(model, weighting, batch, scale):
    """Walks the shards of a super-batch and weighs their gradients.

    Args:
        model: A built `BilevelModel`.
        weighting: A `Weighting` whose unit is the shard.
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
    visitor = _Visitor(model, weighting, batch, scale)
    split = weighting.num_validation_shards
    gradients, upper = zip(*(visitor.visit(index) for index in range(split)))
    judge, dense_alignments = visitor.judge(gradients, upper)

    if visitor.layout.is_empty():
        # All is known of all shards: there is nothing to walk.
        _, lower = visitor.visit(slice(split, None))
        lower["alignment"] = dense_alignments[split:]
        lower["weights"] = tf.transpose(visitor.weigh_all(lower))
        return visitor.finish([], upper, lower)

    def turn(index, total):
        gradient, seen = visitor.visit(index + split)
        seen["alignment"] = visitor.layout.inner_products(gradient, judge)
        seen["alignment"] += dense_alignments[index + split]
        if keeps_gradients:
            return total, {**seen, "gradient": gradient}
        weights = visitor.weigh(seen)
        part = visitor.layout.scale(gradient, weights)
        total = [t + p for t, p in zip(total, part)]
        return total, {**seen, "weights": weights}

    like = {**upper[0], "alignment": upper[0]["norm"]}
    like.update(
        {"gradient": judge} if keeps_gradients else {"weights": like["norm"]}
    )
    total, lower = fold(
        turn,
        [tf.zeros_like(g) for g in judge],
        weighting.num_shards - split,
        like,
        # No loop may wait for other replicas.
        unroll=replicas.meet_in(model),
    )
    if keeps_gradients:
        total, lower["weights"] = visitor.solve(lower)
    return visitor.finish(total, upper, lower)


class _Visitor:
    """Visits single shards; holds what stays the same from one to the next."""

    def __init__(self, model, weighting, batch, scale):
        self.model = model
        self.weighting = weighting
        self.batch = batch
        self.scale = scale
        self.shards = _cut(batch, weighting.num_shards)
        self.moving = state.moving_statistics(model)
        self.seeds = state.seed_states(model) if weighting.same_dropout else []
        self.first_seeds = state.read(self.seeds)
        self.layout = None
        self.gradient = self.pass_of_its_own
        self.dense = []
        if one_pass.can_share(model, weighting, scale):
            shared = one_pass.OnePass(model, weighting, self.shards)
            self.gradient, self.dense = shared.gradient, shared.dense

    def pass_of_its_own(self, index):
        part = map_tensors(lambda t: t[index], self.shards)
        state.write(self.seeds, self.first_seeds)
        return losses.data_gradient(self.model, part, self.scale)

    def visit(self, index):
        """Returns the gradient of one shard and what was seen on the way.

        Args:
            index: As for `OnePass.gradient`.
        """
        before = state.read(self.moving)
        y_pred, loss, gradient = self.gradient(index)
        if self.layout is None:
            self.layout = vectors.Layout(
                self.model,
                gradient,
                self.weighting.per_layer,
                apart={id(v) for call in self.dense for v in call.variables},
            )
            self.dense_norms = self.dense_statistic(
                call.norms() for call in self.dense
            )
        gradient = self.layout.pack(gradient)
        norm = self.layout.inner_products(gradient, gradient)
        norm += self.dense_norms[index]
        healthy = tf.math.is_finite(loss)
        healthy &= tf.reduce_all(tf.math.is_finite(norm), axis=-1)
        healthy &= ~state.spoiled(self.moving, before)
        state.restore_unless(healthy, self.moving, before)
        loss = tf.cast(loss, tf.float32)
        seen = {
            "y_pred": y_pred,
            "masks": get_masks(y_pred),
            "loss": loss,
            "norm": norm,
            "healthy": healthy,
        }
        return gradient, seen

    def judge(self, gradients, upper):
        """Sums the upper level's gradients over its shards and all replicas.

        Args:
            gradients: List of what `visit` returns for each validation shard.
            upper: List of what was seen there.

        Returns:
            Tuple of the upper-level gradient, packed, and the alignments with
            what is not packed of it, `(num_shards, groups)`.
        """
        masked = [self.mask(*pair) for pair in zip(upper, gradients)]
        packed = [tf.add_n(vectors) for vectors in zip(*masked)]
        healthy = tf.stack([seen["healthy"] for seen in upper])
        ones = tf.ones((self.layout.num_groups, len(upper)))
        dense = self.dense_sums(tf.where(healthy, ones, 0.0), slice(len(upper)))
        packed, dense = replicas.reduce_sum((packed, dense))
        return packed, self.dense_statistic(
            call.alignments(direction)
            for call, direction in zip(self.dense, dense)
        )

    def dense_statistic(self, values):
        """Sums a statistic of each dense layer to one of each group.

        Args:
            values: Tensors of shape `(num_shards,)`.

        Returns:
            Tensor of shape `(num_shards, groups)`.
        """
        sums = [tf.zeros(self.weighting.num_shards)] * self.layout.num_groups
        for call, value in zip(self.dense, values):
            sums[self.layout.group_of(call.layer.kernel)] += value
        return tf.stack(sums, axis=1)

    def dense_sums(self, weights, shards):
        """Returns weighted sums of gradients, a list for each dense layer.

        Args:
            weights: Tensor of shape `(groups, units)`.
            shards: A slice, where these units are.
        """
        return [
            call.weighted_sum(
                weights[self.layout.group_of(call.layer.kernel)], shards
            )
            for call in self.dense
        ]

    def mask(self, seen, gradient):
        """Returns zeros for the gradient of a shard that is not healthy."""
        return [self.scale.mask(seen["healthy"], g) for g in gradient]

    def weigh(self, seen):
        """Returns the weight of one shard in each group, not normalised."""
        statistics = {
            name: _per_unit(seen[name]) for name in self.weighting.statistics
        }
        weights = self.weighting.call(**statistics)[:, 0]
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
        weights = self.weighting.call(
            **{name: statistics[name] for name in self.weighting.statistics}
        )
        return self.scale.mask(healthy, weights)

    def solve(self, seen):
        """Weighs all shards from their Gram matrix, and sums them."""
        healthy = seen["healthy"][:, None]
        stacked = [self.scale.mask(healthy, g) for g in seen["gradient"]]
        weights = self.weigh_all(seen, gram=vectors.gram_matrix(stacked))
        total = vectors.weighted_sum(stacked, weights)
        return total, tf.transpose(weights)

    def finish(self, total, upper, lower):
        """Normalises the weights and gathers what all shards have shown."""
        weights = tf.transpose(lower["weights"])
        factors = normalizer(self.weighting, weights)
        gradients = self.layout.unpack(self.layout.scale(total, factors))
        split = slice(self.weighting.num_validation_shards, None)
        dense = self.dense_sums(weights * factors[:, None], split)
        y_pred, masks, loss, healthy = (
            keras.tree.map_structure(
                lambda last, *first: tf.concat([tf.stack(first), last], 0),
                lower[name],
                *(seen[name] for seen in upper),
            )
            for name in ("y_pred", "masks", "loss", "healthy")
        )
        y_pred, masks = keras.tree.map_structure(_merge, (y_pred, masks))
        return Step(
            variables=self.model.trainable_variables,
            gradients=self.fill(gradients, dense),
            weights=finite_or_zero(weights * factors[:, None]),
            losses=tf.where(healthy, loss, 0.0),
            has_loss=healthy,
            dropped=~healthy,
            batch=self.batch,
            y_pred=set_masks(y_pred, masks),
        )

    def fill(self, gradients, dense):
        """Puts the dense layers' gradients in their places."""
        parts = {
            id(variable): part
            for call, parts in zip(self.dense, dense)
            for variable, part in zip(call.variables, parts)
        }
        variables = self.model.trainable_variables
        return [parts.get(id(v), g) for v, g in zip(variables, gradients)]


def _cut(batch, num_shards):
    """Reshapes `(num_shards * shard_size, ...)` to one row per shard."""
    parts = (batch.x, batch.y, batch.sample_weight)
    for tensor in tensors(parts):
        _check_divisible(tensor, num_shards)
    return map_tensors(
        lambda t: tf.reshape(t, (num_shards, -1, *t.shape[1:])), parts
    )


def _check_divisible(tensor, num_shards):
    message = (
        "Expected the number of examples in a batch to be a multiple of "
        f"num_shards={num_shards}. Received: a batch of {{size}}. Let `fit` "
        "build the super-batches from arrays, or build them with "
        "`kb.data.stratified_batches`, which drops the remainder."
    )
    size = tensor.shape[0]
    if size is None:
        # Generators: the size is known when the batch is there.
        size = tf.shape(tensor)[0]
        message = message.format(size="another size")
        tf.debugging.assert_equal(size % num_shards, 0, message)
    elif size % num_shards:
        raise ValueError(message.format(size=size))


def _per_unit(statistic):
    """Gives a statistic of one shard the shape `(groups, 1)`."""
    return tf.reshape(statistic, (-1, 1))


def _merge(stacked):
    """Reshapes `(num_shards, shard_size, ...)` back to one batch."""
    return tf.reshape(stacked, (-1, *stacked.shape[2:]))
