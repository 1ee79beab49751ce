"""The gradients of all shards from one pass over the super-batch.

Where no layer mixes examples, the outputs of all layers and the deltas of all
shards are those of one large batch. Only what is left, a layer's gradient from
its inputs and the deltas of its outputs, is taken shard by shard, and of dense
layers not even that: see `dense_layers`.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_bilevel.gradients import dense_layers
from keras_bilevel.gradients import losses
from keras_bilevel.gradients import state
from keras_bilevel.gradients import taps
from keras_bilevel.gradients.structure import map_rows
from keras_bilevel.gradients.structure import map_tensors
from keras_bilevel.gradients.structure import unstack


def can_share(model, weighting, scale):
    """Returns whether one pass gives what a pass for each shard would.

    Args:
        model: A built `BilevelModel`.
        weighting: A `Weighting` whose unit is the shard.
        scale: The `LossScale`.
    """
    layers = model.model._flatten_layers()
    return (
        taps.can_tap(model.model)
        and not scale.is_active
        # One mask for all shards, not one for each example.
        and not weighting.same_dropout
        and not any(_is_special(layer) for layer in layers)
    )


def _is_special(layer):
    """Returns whether a layer casts its variables, or has a loss per call."""
    policy = layer.dtype_policy
    return (
        policy.compute_dtype != policy.variable_dtype
        or getattr(layer, "activity_regularizer", None) is not None
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a layer, up to its activation.

    Attributes:
        layer: The layer.
        function: What was called, `output = function(*args, **kwargs)`.
        variables: List of the layer's own trainable variables.
        inputs: Tuple of `args` and `kwargs`.
        output: Tensor of shape `(batch_size, ...)`.
        deltas: The derivatives of the loss in it.
    """

    layer: keras.Layer
    function: Callable
    variables: list
    inputs: tuple
    output: tf.Tensor
    deltas: tf.Tensor = None

    def by_shard(self, deltas, num_shards):
        """Returns the call with all tensors cut, but for the output."""
        cut = functools.partial(_cut, num_shards=num_shards)
        return dataclasses.replace(
            self, inputs=_map_inputs(cut, self.inputs), deltas=cut(deltas)
        )

    def gradient(self, index):
        """Returns the gradient of one shard in the layer's variables."""
        values = [variable.value for variable in self.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            args, kwargs = _map_inputs(lambda t: t[index], self.inputs)
            output = self.function(*args, **kwargs)
        return tape.gradient(output, values, self.deltas[index])

    def is_dense(self):
        rows = self.deltas.shape[1:-1]
        return (
            dense_layers.is_worth_it(self.layer, rows)
            # Nothing is frozen, and there are no variables of LoRA.
            and len(self.variables) == 1 + self.layer.use_bias
        )

    def as_dense(self):
        (inputs,) = filter(tf.is_tensor, keras.tree.flatten(self.inputs))
        return dense_layers.DenseCall(
            self.layer, _rows(inputs), _rows(self.deltas)
        )


class OnePass:
    """A forward and a backward pass over all shards.

    Args:
        model: A built `BilevelModel` for which `can_share`.
        weighting: The `Weighting`.
        shards: Tuple `(x, y, sample_weight)` of tensors of shape
            `(num_shards, shard_size, ...)`.

    Attributes:
        dense: List of the `DenseCall`s. `gradient` leaves them out.
    """

    def __init__(self, model, weighting, shards):
        count = weighting.num_shards
        self._variables = model.trainable_variables
        calls = []
        with tf.GradientTape() as tape:
            x = map_tensors(_merge, shards[0])
            with _recorded(model.model, _ids(self._variables), calls):
                y_pred = losses.predictions(model, x)
            self._y_pred = map_rows(lambda t: _cut(t, count), y_pred)
            parts = [
                _loss(model, part, y_pred)
                for part, y_pred in zip(
                    unstack(shards, count), unstack(self._y_pred, count)
                )
            ]
            total = tf.add_n(parts)
        self._losses = tf.stack(parts)
        deltas = tape.gradient(total, [call.output for call in calls])
        calls = [
            call.by_shard(delta, count)
            for call, delta in zip(calls, deltas)
            if delta is not None
        ]
        times = collections.Counter(id(call.layer) for call in calls)
        self.dense, self._calls = [], []
        for call in calls:
            is_dense = times[id(call.layer)] == 1 and call.is_dense()
            # Inner products among shards need the gradients themselves.
            if is_dense and "gram" not in weighting.statistics:
                self.dense.append(call.as_dense())
            else:
                self._calls.append(call)

    def _part(self, index):
        return map_rows(lambda t: t[index], self._y_pred)

    def gradient(self, index):
        """Returns predictions, loss and gradient of one shard.

        Args:
            index: Integer, or integer scalar tensor.

        Returns:
            As `losses.data_gradient`; `None` for what `dense` has, too.
        """
        sums = {}
        for call in self._calls:
            for variable, part in zip(call.variables, call.gradient(index)):
                # A layer may have been called several times.
                before = sums.get(id(variable), 0.0)
                sums[id(variable)] = before + _as_float32(part)
        return (
            self._part(index),
            self._losses[index],
            [sums.get(id(v)) for v in self._variables],
        )


def _loss(model, part, y_pred):
    # A shard that is not finite must not stay in the outputs' own losses.
    with state.finite_only(state.moving_statistics(model)):
        return losses.data_loss_of(model, part, y_pred)


def _ids(variables):
    return {id(variable) for variable in variables}


@contextlib.contextmanager
def _recorded(network, trainable, calls):
    """Adds each call of a layer that owns trainable variables to a list."""
    changed = []
    for layer in network._flatten_layers():
        own = [v for v in layer._trainable_variables if id(v) in trainable]
        if own:
            call = functools.partial(_record, layer, layer.call, own, calls)
            # Keras tracks what is set in the ordinary way.
            object.__setattr__(layer, "call", call)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


def _record(layer, call, variables, calls, *args, **kwargs):
    linear = functools.partial(_without_activation, layer, call)
    output = linear(*args, **kwargs)
    calls.append(_Call(layer, linear, variables, (args, kwargs), output))
    activation = getattr(layer, "activation", None)
    return output if activation is None else activation(output)


def _without_activation(layer, call, *args, **kwargs):
    """Calls a layer up to its activation, which is known to come last."""
    if not hasattr(layer, "activation"):
        return call(*args, **kwargs)
    activation = layer.activation
    object.__setattr__(layer, "activation", None)
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(layer, "activation", activation)


def _merge(shards):
    """Reshapes `(num_shards, shard_size, ...)` to one batch."""
    return tf.reshape(shards, (-1, *shards.shape[2:]))


def _cut(batch, num_shards):
    """Reshapes one batch to `(num_shards, shard_size, ...)`."""
    return tf.reshape(batch, (num_shards, -1, *batch.shape[1:]))


def _rows(cut):
    """Reshapes `(num_shards, ..., size)` to `(num_shards, rows, size)`."""
    return _as_float32(tf.reshape(cut, (cut.shape[0], -1, cut.shape[-1])))


def _as_float32(tensor):
    """Returns a dense tensor: embeddings' gradients are some rows only."""
    return tf.cast(tf.convert_to_tensor(tensor), tf.float32)


def _map_inputs(function, inputs):
    """Maps the tensors among a layer's arguments."""
    return keras.tree.map_structure(
        lambda t: function(t) if tf.is_tensor(t) else t, inputs
    )
