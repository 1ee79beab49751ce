"""A matrix of label noise that is learnt together with the network."""

import keras
import numpy as np
from keras import ops

from keras_bilevel import checks


class NoiseLayer(keras.layers.Layer):
    """Base of the noise layers: probabilities times a matrix, in training.

    Args:
        confusion: Matrix of shape `(num_classes, num_classes)`, or `None`.
        noise: Float, the share of wrong labels to start from without it.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, confusion, noise, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.noise = checks.check_share("noise", noise)
        self.confusion = None
        if confusion is not None:
            matrix = checks.check_numbers("confusion", confusion, 0.0)
            square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
            if not square or not np.all(matrix.sum(axis=1) > 0):
                raise checks.wrong_argument(
                    "confusion",
                    matrix.tolist(),
                    "a square matrix with a positive sum in each row",
                )
            self.confusion = matrix

    def initial(self, num_classes):
        """Returns the matrix to start from; its rows sum to 1."""
        if num_classes is None:
            raise checks.wrong(
                "the input shape", "a known number of classes", "None"
            )
        if self.confusion is None:
            if num_classes < 2:
                raise checks.wrong(
                    "the input shape", "at least 2 classes", num_classes
                )
            others = self.noise / (num_classes - 1)
            right = (1.0 - self.noise - others) * np.eye(num_classes)
            return right + others
        if len(self.confusion) != num_classes:
            raise checks.wrong(
                "the input shape",
                f"{len(self.confusion)} classes, as in `confusion`",
                num_classes,
            )
        return self.confusion / self.confusion.sum(axis=1, keepdims=True)

    def transition(self):
        """Returns the matrix: entry `[i, j]` is how often `i` becomes `j`."""
        raise NotImplementedError

    def call(self, inputs, training=False):
        if not training:
            return inputs
        return ops.matmul(inputs, ops.cast(self.transition(), inputs.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        known = self.confusion is not None
        return {
            **super().get_config(),
            "confusion": self.confusion.tolist() if known else None,
            "noise": self.noise,
        }


@keras.saving.register_keras_serializable("keras_bilevel")
class NoiseAdaptation(NoiseLayer):
    """Learns which label each class gets, as a softmax of free numbers.

    In training it turns probabilities of the true class into those of the
    given label, which the loss compares. Else it returns its inputs, so that
    `predict` and `evaluate` are about the true class. Only the initial matrix
    tells true classes from given labels: give one that is roughly right.

    Example:

    ```python
    net = keras.Sequential(
        [
            keras.layers.Dense(10, activation="softmax"),
            kb.layers.NoiseAdaptation(noise=0.3),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(x, y, batch_size=128, epochs=30)
    ```

    Args:
        confusion: Matrix of shape `(num_classes, num_classes)` to start from.
            Entry `[i, j]` is how often class `i` is labelled as `j`, a count
            or a share. The paper takes the predictions of a network that was
            trained without the layer against the given labels. Defaults to
            `None`: a matrix that `noise` determines.
        noise: Float in [0, 1], the guessed share of wrong labels to start
            from where there is no `confusion`. Defaults to `0.1`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `noise` is not in [0, 1], or `confusion` is not a square
            matrix of numbers >= 0 with a positive sum in each row.

    Reference:

    - [Goldberger & Ben-Reuven, 2017](https://openreview.net/forum?id=H12GRgcxg),
      the simple model
    """

    def __init__(self, confusion=None, noise=0.1, **kwargs):
        super().__init__(confusion, noise, **kwargs)

    def build(self, input_shape):
        start = self.initial(input_shape[-1])
        # A share of 0 would have no gradient, ever.
        start = np.log(np.maximum(start, 1e-4))
        self.bias = self.add_weight(
            shape=start.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                start, dtype
            ),
            name="bias",
        )

    def transition(self):
        return ops.softmax(self.bias, axis=-1)


@keras.saving.register_keras_serializable("keras_bilevel")
class LinearNoise(NoiseLayer):
    """Learns which label each class gets, as a matrix of probabilities.

    In training it turns probabilities of the true class into those of the
    given label, which the loss compares. Else it returns its inputs, so that
    `predict` and `evaluate` are about the true class. After each step, negative
    entries are set to 0 and rows are scaled to sum to 1. A regulariser pulls
    the matrix away from the identity, so that it takes up the noise before the
    network does.

    Example:

    ```python
    net = keras.Sequential(
        [
            keras.layers.Dense(10, activation="softmax"),
            kb.layers.LinearNoise(decay=0.02),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(x, y, batch_size=128, epochs=30)
    ```

    Args:
        trace: Float >= 0, how strongly the trace of the matrix is pulled down.
            Defaults to `0.0`.
        decay: Float >= 0, the factor of the sum of the squared entries, which
            does the same as `trace` in a softer way. Defaults to `0.01`.
        confusion: Matrix of shape `(num_classes, num_classes)` to start from.
            Entry `[i, j]` is how often class `i` is labelled as `j`, a count
            or a share. Defaults to `None`: a matrix that `noise` determines.
        noise: Float in [0, 1], the share of wrong labels to start from where
            there is no `confusion`. Defaults to `0.0`, the identity, as in the
            paper.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `trace` or `decay` is negative, `noise` is not in [0, 1],
            or `confusion` is not a square matrix of numbers >= 0 with a
            positive sum in each row.

    Reference:

    - [Sukhbaatar et al., 2015](https://arxiv.org/abs/1406.2080), section 4.2
    """

    def __init__(
        self, trace=0.0, decay=0.01, confusion=None, noise=0.0, **kwargs
    ):
        super().__init__(confusion, noise, **kwargs)
        self.trace = checks.check_positive("trace", trace, or_zero=True)
        self.decay = checks.check_positive("decay", decay, or_zero=True)

    def build(self, input_shape):
        start = self.initial(input_shape[-1])
        self.matrix = self.add_weight(
            shape=start.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                start, dtype
            ),
            regularizer=self._penalty,
            constraint=_stochastic,
            name="matrix",
        )

    def _penalty(self, matrix):
        return self.trace * ops.trace(matrix) + self.decay * ops.sum(
            ops.square(matrix)
        )

    def transition(self):
        return self.matrix

    def get_config(self):
        return {
            **super().get_config(),
            "trace": self.trace,
            "decay": self.decay,
        }


def _stochastic(matrix):
    """Returns the matrix with entries >= 0 and rows that sum to 1."""
    matrix = ops.maximum(matrix, 0.0)
    # A row without a positive entry becomes the same for all labels.
    matrix = matrix + keras.config.epsilon()
    return matrix / ops.sum(matrix, axis=-1, keepdims=True)
