"""The weighted gradient of examples, without storing one for each."""

from keras import ops

from keras_bilevel.engine import affine
from keras_bilevel.engine import compiled_losses
from keras_bilevel.engine import losses
from keras_bilevel.engine import state
from keras_bilevel.engine.backend import alignments
from keras_bilevel.engine.backend import replicas
from keras_bilevel.engine.bad_examples import without_bad
from keras_bilevel.engine.example_losses import of_kept
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.step import Upper
from keras_bilevel.engine.step import finite_or_zero
from keras_bilevel.engine.step import normalizer
from keras_bilevel.engine.step import weights_of


def walk(model, weighting, upper, lower, scale):
    """Weighs the examples of a source batch by a target batch's gradient.

    All gradients are taken at the same point. The variables of the source
    network get the gradient of its weighted loss. The variables of the target
    network alone get the gradient of the target loss.

    Args:
        model: A built `BilevelModel`.
        weighting: An `ExampleWeighting`.
        upper: The target `Batch` of shape `(target_size, ...)`.
        lower: The source `Batch` of shape `(source_size, ...)`.
        scale: The `LossScale`.

    Returns:
        A `Step`.
    """
    network = model.get_source()
    variables = model.trainable_variables
    of_source = _ids(network.model)
    theta = of_source & _ids(model.model)
    moving = state.moving_statistics(model, network)
    before = state.read(moving)
    learning_rate = ops.cast(model.optimizer.learning_rate, "float32")

    parts = (upper.x, upper.y, upper.sample_weight)
    y_pred, loss, own, factors = alignments.target_gradient(model, parts, scale)
    # The upper-level gradient u is the mean over the targets of all replicas.
    judge = replicas.reduce_mean(
        [
            g if g is not None and id(v) in theta else None
            for g, v in zip(own, variables)
        ]
    )
    lower, good = without_bad(network, lower, scale)
    weights = None
    if not weighting.update_weights_first:
        weights = weighting.recall(lower.ids)
    is_known = weights is not None
    ones = ops.cast(good, "float32")
    point = ops.where(good, weights[0], 0.0) if is_known else ones
    source = alignments.make(
        network, variables, lower, point, judge, factors, scale, is_known
    )
    compiled_losses.check_per_example(network, lower.y, source.y_pred)

    healthy = ops.isfinite(affine.length_of([*own, *source.evidence]))
    healthy &= ~state.spoiled(moving, before)
    is_misfit = None
    if source.misfit is not None:
        # A step with wrong alignments changes nothing. `fit` ends with an
        # error.
        is_misfit = source.misfit > losses.most_misfit(network.model)
        healthy &= ~is_misfit
    # A non-finite gradient on one replica drops the step on all of them.
    healthy = replicas.on_all(healthy)
    state.restore_unless(healthy, moving, before)
    # Non-finite examples get weight 0 and change nothing that is remembered.
    usable = healthy & good
    statistics = {
        name: ops.where(usable, finite_or_zero(value), 0.0)[None]
        for name, value in source.statistics.items()
    }
    if weighting.has_update():
        weighting.update(
            replicas.gather(lower.ids),
            {
                name: replicas.gather(statistics[name][0])[None]
                for name in weighting.statistics
            },
            learning_rate,
        )
    if is_known:
        gradient = source.gradient  # Eq. 3 of SOSELETO
    else:
        weights = weighting.recall(lower.ids)
        if weights is None:
            weights = _weigh(weighting, statistics)
        # Eq. 3 of SOSELETO, if Eq. 5 came first (`update_weights_first`).
        gradient = source.at(
            _per_mean(weighting, ops.where(usable, weights[0], 0.0))
        )
        is_finite = ops.isfinite(affine.length_of(gradient))
        healthy &= replicas.on_all(is_finite)
    lower_share = 1.0 if weighting.l1_normalize else replicas.num_replicas()
    gradient = [
        _divide(g, lower_share)
        if id(v) in of_source
        else _divide(o, replicas.num_replicas())
        for g, o, v in zip(gradient, own, variables)
    ]
    shown_losses = source.statistics["loss"]
    shown_losses += finite_or_zero(source.constant)
    has_loss = good & ops.isfinite(shown_losses)
    return Step(
        variables=variables,
        gradients=scale.zero_unless(healthy, gradient),
        weights=ops.where(usable, weights, 0.0),
        losses=ops.where(has_loss, shown_losses, 0.0),
        has_loss=has_loss,
        dropped=~usable,
        batch=lower,
        y_pred=source.y_pred,
        upper=Upper(
            batch=upper,
            y_pred=y_pred,
            loss=ops.where(healthy, ops.cast(loss, "float32"), 0.0),
            has_loss=healthy,
        ),
        # The compiled metrics are those of the target network.
        shown=(
            _of_usable(lower, source.y_pred, usable)
            if network is model
            else (upper.y, y_pred, upper.sample_weight)
        ),
        is_misfit=is_misfit,
    )


def _of_usable(batch, y_pred, usable):
    kept = ops.cast(usable, "float32")
    factor = of_kept(kept, per_replica=True)
    return batch.y, y_pred, losses.weighted(batch, factor)[2]


def _ids(network):
    return {id(variable) for variable in network.trainable_variables}


def _weigh(weighting, statistics):
    weights = weights_of(weighting, statistics)
    return weights * normalizer(weighting, weights)[:, None]


def _per_mean(weighting, weights):
    """Turns normalised weights, made for a sum, into factors of a mean."""
    if not weighting.l1_normalize:
        return weights
    return weights * ops.cast(ops.shape(weights)[0], "float32")


def _divide(gradient, count):
    return gradient if gradient is None or count == 1 else gradient / count
