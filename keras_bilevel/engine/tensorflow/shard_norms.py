"""Batch normalisation of many shards in one batch.

Each shard is normalised by its own moments, as if it had come alone, and moves
the moving averages, shard after shard. How they move has a closed form, which
waits until it is known which shards count.

Each shard also has its own copy of gamma and beta. So the backward pass yields
the gradients of all shards at once.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_bilevel import keras_private
from keras_bilevel.engine.tensorflow import calls
from keras_bilevel.engine.tensorflow import replicas


class MixedModesError(Exception):
    """A layer is called in training and in inference mode in one pass."""


@contextlib.contextmanager
def fast_batch_norm(network):
    """Lets a network normalise a whole batch in fewer operations than Keras.

    Double back-propagation goes through each of them four times.

    Args:
        network: `keras.Model`, any.
    """
    functions = {
        layer: functools.partial(_normalize_batch, layer)
        for layer in keras_private.all_layers(network)
        if type(layer) is keras.layers.BatchNormalization
        and not getattr(layer, "renorm", False)
    }
    with calls.replaced(functions):
        yield


def _normalize_batch(layer, *args, **kwargs):
    norms = ShardNorms(1)
    y = norms.call_of(layer)(*args, **kwargs)
    norms.settle(tf.constant([True]))
    return y


class ShardNorms:
    """The batch normalisations of a pass over several shards.

    Args:
        num_shards: Integer.
    """

    def __init__(self, num_shards):
        self._count = num_shards
        self._copies = {}
        self._moments = {}
        self._in_inference = set()

    def call_of(self, layer):
        """Returns what to call in place of a layer, or `None`."""
        if type(layer) is keras.layers.BatchNormalization:
            return functools.partial(self._call, layer)
        return None

    def copies_of(self, variables):
        """Returns those of the variables that have copies, and these.

        Args:
            variables: List of `keras.Variable`.

        Returns:
            Tuple of two lists. Copies are tensors of shape
            `(num_shards, channels)`.
        """
        known = [v for v in variables if id(v) in self._copies]
        return known, [self._copies[id(v)] for v in known]

    def finite(self):
        """Returns which shards leave the averages finite, `(num_shards,)`."""
        sound = tf.fill((self._count,), True)
        for variable, _, moments in self._moves():
            # What was not finite before does not count.
            ok = tf.math.is_finite(moments) | ~tf.math.is_finite(variable)
            ok = tf.reshape(ok, (self._count, -1))
            sound &= tf.reduce_all(ok, axis=1)
        return sound

    def settle(self, healthy):
        """Moves the averages.

        Args:
            healthy: Boolean tensor of shape `(num_shards,)`, which shards move
                them.
        """
        shares = {}
        for variable, momentum, moments in self._moves():
            key = momentum, moments.shape[0] // self._count, moments.dtype
            if key not in shares:
                shares[key] = _shares(healthy, *key)
            kept, parts = shares[key]
            moments = tf.where(parts[:, None] > 0.0, moments, 0.0)
            moved = tf.linalg.matvec(moments, parts, transpose_a=True)
            variable.assign(kept * tf.cast(variable, moved.dtype) + moved)

    def _moves(self):
        """Yields variable, momentum and moments `(num_shards * calls, size)`.

        A layer that is called more than once moves more than once a shard.
        """
        for layer, found in self._moments.items():
            averages = layer.moving_mean, layer.moving_variance
            for variable, moments in zip(averages, zip(*found)):
                moments = tf.stack(moments, axis=1)
                moments = tf.reshape(moments, (-1, moments.shape[-1]))
                yield variable, layer.momentum, moments

    def _call(self, layer, inputs, training=None, mask=None):
        moves = bool(training and layer.trainable)
        if layer in (self._in_inference if moves else self._moments):
            raise MixedModesError(
                f"`{layer.name}` is called in training and in inference mode"
            )
        # In float16, Keras normalises in float32 as well.
        kind = keras.backend.result_type(inputs.dtype, "float32")
        x = self._cut(layer, tf.cast(inputs, kind))
        ones = tf.ones((self._count, 1, x.shape[2], 1), kind)
        gammas = self._copy(layer.gamma, kind) if layer.scale else ones
        betas = self._copy(layer.beta, kind) if layer.center else 0.0 * ones
        if moves:
            if mask is not None:
                mask = tf.broadcast_to(mask[..., None], tf.shape(inputs))
                mask = self._cut(layer, tf.cast(mask, kind))
            y, *moments = _by_own_moments(layer, mask, x, gammas, betas)
            moments = [tf.reshape(m, (self._count, -1)) for m in moments]
            self._moments.setdefault(layer, []).append(moments)
        else:
            self._in_inference.add(layer)
            y = _by_averages(layer, x, gammas, betas)
        y = tf.ensure_shape(tf.reshape(y, tf.shape(inputs)), inputs.shape)
        return tf.cast(y, layer.compute_dtype)

    def _cut(self, layer, rows):
        """Reshapes to `(num_shards, rows, channels, rest)`."""
        axis = layer.axis % len(rows.shape)
        channels, rest = rows.shape[axis], rows.shape[axis + 1 :].num_elements()
        if rest is None:
            rest = tf.reduce_prod(tf.shape(rows)[axis + 1 :])
        return tf.reshape(rows, (self._count, -1, channels, rest))

    def _copy(self, variable, kind):
        key = id(variable)
        if key not in self._copies:
            value = tf.convert_to_tensor(variable.value)
            self._copies[key] = tf.tile(value[None], (self._count, 1))
        return tf.cast(self._copies[key], kind)[:, None, :, None]


def _by_averages(layer, x, gammas, betas):
    mean, variance = (
        tf.cast(average, x.dtype)[None, None, :, None]
        for average in (layer.moving_mean, layer.moving_variance)
    )
    slopes = tf.math.rsqrt(variance + layer.epsilon) * gammas
    return x * slopes + (betas - mean * slopes)


def _by_own_moments(layer, mask, *inputs):
    """Returns normalised shards, their means and their variances."""
    # Keras synchronises no moments of masked inputs.
    is_spread = layer.synchronized and mask is None

    def total(sums):
        return replicas.reduce_sum(sums) if is_spread else sums

    @tf.custom_gradient
    def normalize(x, gammas, betas):
        if mask is None:
            mean, variance = keras.ops.moments(
                x, (1, 3), keepdims=True, synchronized=layer.synchronized
            )
            count = total(_sum(tf.ones_like(x[:1, :, :1])))
        else:
            count = _sum(mask) + keras.config.epsilon()
            mean = _sum(mask * x) / count
            variance = _sum(mask * tf.square(x - mean)) / count
        inverse = tf.math.rsqrt(variance + layer.epsilon)
        slopes = inverse * gammas

        def gradient(change, *_):
            # With n = (x - mean) inverse and sums S over all rows, the change
            # of x is slopes (change - (S change + n S (change n)) / count).
            of_betas = _sum(change)
            of_gammas = inverse * (_sum(change * x) - mean * of_betas)
            down = slopes / count
            through = -down * inverse * total(of_gammas)
            rest = -down * total(of_betas) - through * mean
            moved = x * through + rest
            moved = moved if mask is None else moved * mask
            return change * slopes + moved, of_gammas, of_betas

        y = x * slopes + (betas - mean * slopes)
        return (y, mean, variance), gradient

    return normalize(*inputs)


def _sum(rows):
    return tf.reduce_sum(rows, axis=(1, 3), keepdims=True)


def _shares(healthy, momentum, calls, dtype):
    """Returns the shares of the old average and of each shard's moments.

    From a to m a + (1 - m) b_i for each healthy i in turn is m^n a +
    (1 - m) sum_i m^(n - i) b_i.
    """
    counts = tf.repeat(tf.cast(healthy, dtype), calls)
    passed = tf.cumsum(counts)
    momentum = tf.cast(momentum, dtype)
    after = tf.pow(momentum, passed[-1] - passed)
    return tf.pow(momentum, passed[-1]), counts * (1.0 - momentum) * after
