"""Several ways to a weighted gradient and the alignments of all examples.

Each is a function of a network, source examples `x, y`, and `judge`, the
gradient of the target's mean loss. It returns the gradient of the source's
mean loss, and the product of each source example's gradient with `judge`.
"""

import keras
import tensorflow as tf

from keras_bilevel.engine.tensorflow import calls


def _losses(network, x, y):
    return keras.losses.sparse_categorical_crossentropy(
        y, network(x, training=True), from_logits=True
    )


def mean_gradient(network, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(_losses(network, x, y))
    return tape.gradient(loss, _values(network))


def _values(network):
    return [variable.value for variable in network.trainable_variables]


def _calls(network, x, y, judge):
    """What `fit` does where no layer mixes examples."""
    variables = network.trainable_variables
    directions = {id(v): u for v, u in zip(variables, judge)}
    with (
        tf.GradientTape() as tape,
        calls.recorded(network, variables) as recorded,
    ):
        loss = tf.reduce_mean(_losses(network, x, y))
    gradient, deltas = tape.gradient(
        loss, (_values(network), [call.output for call in recorded])
    )
    products = [
        tf.reshape(delta * call.tangent(directions), (len(x), -1))
        for call, delta in zip(recorded, deltas)
    ]
    alignment = tf.add_n([tf.reduce_sum(p, axis=1) for p in products])
    return gradient, alignment * len(x)


def _double(network, x, y, judge):
    """What `fit` does everywhere else."""
    weights = tf.ones(len(x))
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            loss = tf.reduce_mean(_losses(network, x, y) * weights)
        gradient = inner.gradient(loss, _values(network))
        products = [tf.reduce_sum(g * u) for g, u in zip(gradient, judge)]
        projection = tf.add_n(products)
    return gradient, outer.gradient(projection, weights) * len(x)


def _forward(network, x, y, judge):
    with tf.GradientTape() as tape:
        with tf.autodiff.ForwardAccumulator(
            _values(network), judge
        ) as accumulator:
            losses = _losses(network, x, y)
        loss = tf.reduce_mean(losses)
    return tape.gradient(loss, _values(network)), accumulator.jvp(losses)


def _vectorised(network, x, y, judge):
    """Keeps a gradient of every example."""
    each = tf.vectorized_map(
        lambda one: mean_gradient(network, one[0][None], one[1][None]), (x, y)
    )
    alignments = tf.add_n(
        [
            tf.linalg.matvec(_rows(g), tf.reshape(u, [-1]))
            for g, u in zip(each, judge)
        ]
    )
    return [tf.reduce_mean(g, axis=0) for g in each], alignments


def _rows(gradients):
    return tf.reshape(gradients, (gradients.shape[0], -1))


def _one_by_one(network, x, y, judge):
    """As in the authors' notebook."""
    alignments, total = [], [tf.zeros_like(u) for u in judge]
    for j in range(len(x)):
        one = mean_gradient(network, x[j : j + 1], y[j : j + 1])
        alignments.append(
            tf.add_n([tf.reduce_sum(g * u) for g, u in zip(one, judge)])
        )
        total = [t + g for t, g in zip(total, one)]
    return [t / len(x) for t in total], tf.stack(alignments)


WAYS = {
    "calls": _calls,
    "double": _double,
    "forward": _forward,
    "vectorised": _vectorised,
    "one by one": _one_by_one,
}
