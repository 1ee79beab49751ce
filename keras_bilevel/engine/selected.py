"""One gradient for several networks, each on its selected examples."""

from keras import ops

from keras_bilevel.data.batches import map_tensors
from keras_bilevel.engine import affine
from keras_bilevel.engine import example_losses
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.backend import gradients
from keras_bilevel.engine.backend import replicas
from keras_bilevel.engine.bad_examples import without_bad
from keras_bilevel.engine.step import Step


def walk(
    networks, select, disagree, batch, scale, per_replica, needs, penalize
):
    """Selects examples for each network and computes the joint gradient.

    Args:
        networks: List of networks, each in a built and compiled `Wrapper`.
        select: Function `(losses, disagree, **needed)` to a boolean tensor of
            the shape of the losses, `(networks, batch_size)`.
        disagree: Function `(y_preds, counts)` to a boolean tensor of shape
            `(batch_size,)`, see `disagreement`.
        batch: A `Batch` of shape `(batch_size, ...)`.
        scale: The `LossScale`.
        per_replica: Boolean, whether to select on each replica separately, or
            among the examples of all replicas.
        needs: Tuple of names out of those that `kb.selection.Rule` lists.
        penalize: Function `(batch, y_preds, usable)` to a term of the loss for
            each network and example, `(networks, batch_size)`, or `None`.

    Returns:
        A `Step`. Its weights, of shape `(networks, batch_size)`, are 1 where a
        network learns from an example and 0 elsewhere. It has one loss and one
        item in the list `y_pred` per network.
    """
    moving = state.moving_statistics(*networks)
    before = state.read(moving)
    good = True
    for network in networks:
        batch, is_own = without_bad(network, batch, scale)
        good &= is_own

    def compute(pause):
        y_preds = [network(batch.x, training=True) for network in networks]
        with pause():
            singles = [
                example_losses.ExampleLosses(network, batch, y_pred)
                for network, y_pred in zip(networks, y_preds)
            ]
            single = ops.stack([one.losses for one in singles])
            is_finite = ops.all(ops.isfinite(single), axis=0)
            counts = ops.all(ops.stack([one.counts for one in singles]), axis=0)
            usable = good & is_finite & counts
            ranked = ops.where(usable, single, float("inf"))
            differ = disagree(y_preds, singles[0].numbers_that_count())
            needed = {
                name: example_losses.NEEDED[name](batch, y_preds)
                for name in needs
            }
            mask = _select(select, ranked, differ, needed, per_replica)
            parts = [
                one.mean_over(kept, per_replica)
                for one, kept in zip(singles, ops.unstack(mask))
            ]
        means = ops.stack(
            [
                losses.loss_of(network, part, y_pred)
                for network, part, y_pred in zip(networks, parts, y_preds)
            ]
        )
        if penalize is not None:
            terms = penalize(batch, y_preds, usable)
            means += ops.cast(_means(terms, mask, per_replica), means.dtype)
        shown = parts[0][2]
        return scale.up(ops.sum(means)), (
            y_preds,
            is_finite,
            mask,
            means,
            shown,
        )

    variables = _variables(networks)
    _, found, gradient = gradients.differentiate(compute, variables)
    y_preds, is_finite, mask, means, shown = found
    gradient = [scale.down(g) for g in gradient]
    healthy = ops.isfinite(affine.length_of(gradient))
    healthy &= ~state.spoiled(moving, before)
    # Each replica has the mean over what is kept on all of them.
    healthy = replicas.on_all(healthy)
    state.restore_unless(healthy, moving, before)
    means = ops.cast(means, "float32") * replicas.num_replicas()
    return Step(
        variables=variables,
        gradients=scale.zero_unless(healthy, gradient),
        weights=ops.cast(mask & healthy, "float32"),
        losses=ops.where(healthy, means, 0.0),
        has_loss=ops.any(mask, axis=1) & healthy,
        dropped=~(good & is_finite & healthy),
        batch=batch,
        y_pred=y_preds,
        shown=(batch.y, y_preds[0], shown),
    )


def _means(terms, mask, per_replica):
    """Returns the mean term over kept examples, the replica's part of it."""
    factors = [
        example_losses.of_kept(kept, per_replica)
        for kept in ops.unstack(ops.cast(mask, "float32"))
    ]
    means = ops.mean(ops.stack(factors) * terms, axis=1)
    return means / replicas.num_replicas()


def _variables(networks):
    found = {id(v): v for n in networks for v in n.trainable_variables}
    return list(found.values())


def _select(select, single, disagree, needed, per_replica):
    """Returns the mask for the examples of this replica."""
    if per_replica:
        return select(single, disagree, **needed)
    size = ops.shape(single)[1]
    single = ops.transpose(replicas.gather(ops.transpose(single)))
    needed = map_tensors(replicas.gather, needed)
    mask = select(single, replicas.gather(disagree), **needed)
    return ops.transpose(replicas.own_part(ops.transpose(mask), size))
