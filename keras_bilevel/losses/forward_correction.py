"""A known pattern of wrong labels, applied to the predictions."""

import keras
from keras import ops

from keras_bilevel import checks
from keras_bilevel.losses.label_loss import LabelLoss
from keras_bilevel.losses.label_loss import safe_log


@keras.saving.register_keras_serializable("keras_bilevel")
class ForwardCorrection(LabelLoss):
    """Compares noisy labels with what noise would make of the predictions.

    The network learns the clean classes, if the pattern of the noise is right.

    Labels are integers or one-hot; predictions have shape
    `(batch_size, .., num_classes)`.

    Example:

    ```python
    flips = kb.data.noise.random_confusion_matrix(10, 0.4, seed=1)
    net.compile("adam", kb.losses.ForwardCorrection(flips))
    net.fit(x, y, batch_size=128, epochs=30)
    ```

    Args:
        transition: Matrix of shape `(num_classes, num_classes)`. Entry
            `[i, j]` is the probability that class `i` is labelled as `j`, so
            that each row sums to 1.
        from_logits: Boolean, whether predictions are logits. If `False`, they
            are probabilities. Defaults to `False`.
        name: String, the name of the loss. Defaults to
            `"forward_correction"`.
        **kwargs: Arguments of `keras.losses.Loss`: `reduction` and `dtype`.

    Raises:
        ValueError: If `transition` is not a square matrix of probabilities
            with rows that sum to 1, or if predictions have another number of
            classes.

    Reference:

    - [Patrini et al., 2017](https://arxiv.org/abs/1609.03683), Theorem 2
    """

    def __init__(
        self, transition, from_logits=False, name="forward_correction", **kwargs
    ):
        super().__init__(from_logits, name=name, **kwargs)
        self.transition = checks.check_probabilities(
            "transition", transition, square=True, atol=1e-4
        )

    def between(self, labels, logs):
        if logs.shape[-1] != len(self.transition):
            raise checks.wrong(
                "argument `y_pred`",
                f"{len(self.transition)} classes, as in `transition`",
                f"shape {logs.shape}",
            )
        # Theorem 2: T^T p is the distribution of the noisy label.
        matrix = ops.cast(self.transition, logs.dtype)
        noisy = ops.matmul(ops.exp(logs), matrix)
        return -ops.sum(labels * safe_log(noisy), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "transition": self.transition.tolist(),
        }
