"""Both networks learn where they disagree."""

import keras
from keras import ops

from keras_bilevel.selection.rule import Rule


@keras.saving.register_keras_serializable("keras_bilevel")
class Decoupling(Rule):
    """Keeps all examples on which two networks disagree.

    "When to update" is decoupled from "how to update": it does not depend on
    the label. R(t) is not used. A batch without disagreement changes nothing.

    Example:

    ```python
    model = kb.SelectionModel([net_a, net_b], rule=kb.selection.Decoupling())
    ```

    Reference:

    - [Malach and Shalev-Shwartz, 2017](https://arxiv.org/abs/1706.02613)
    """

    def call(self, losses, share, disagree, epoch):
        return ops.isfinite(losses) & disagree
