"""Cross-entropy with labels that the network's own predictions change."""

import keras
from keras import ops

from keras_bilevel import checks
from keras_bilevel.losses.label_loss import LabelLoss


@keras.saving.register_keras_serializable("keras_bilevel")
class Bootstrapping(LabelLoss):
    """Cross-entropy with a mixture of the label and the network's own opinion.

    Labels are integers or one-hot; predictions have shape
    `(batch_size, .., num_classes)`, with at least two classes.

    Example:

    ```python
    net.compile("adam", kb.losses.Bootstrapping(beta=0.95))
    net.fit(x, y, batch_size=128, epochs=30)
    ```

    Args:
        beta: Float in [0, 1], the share of the label in the mixture. With 1 the
            loss is plain cross-entropy. The paper takes 0.95 for the soft
            form and 0.8 for the hard one. Defaults to `0.95`.
        hard: Boolean. If `True`, the opinion is the most likely class. If
            `False`, it is the predicted probabilities, and its gradient is
            part of the gradient. Defaults to `False`.
        from_logits: Boolean, whether predictions are logits. If `False`, they
            are probabilities. Defaults to `False`.
        name: String, the name of the loss. Defaults to `"bootstrapping"`.
        **kwargs: Arguments of `keras.losses.Loss`: `reduction` and `dtype`.

    Raises:
        ValueError: If `beta` is not in [0, 1].

    Reference:

    - [Reed et al., 2015](https://arxiv.org/abs/1412.6596), section 3.2
    """

    def __init__(
        self,
        beta=0.95,
        hard=False,
        from_logits=False,
        name="bootstrapping",
        **kwargs,
    ):
        super().__init__(from_logits, name=name, **kwargs)
        self.beta = checks.check_share("beta", beta)
        self.hard = hard

    def between(self, labels, logs):
        opinion = ops.exp(logs)
        if self.hard:
            opinion = ops.one_hot(
                ops.argmax(logs, axis=-1), logs.shape[-1], dtype=logs.dtype
            )
        # L_soft and L_hard of section 3.2.
        targets = self.beta * labels + (1.0 - self.beta) * opinion
        return -ops.sum(targets * logs, axis=-1)

    def get_config(self):
        return {**super().get_config(), "beta": self.beta, "hard": self.hard}
