"""Learning to Reweight Examples (Ren et al., 2018)."""

import keras
from keras import ops

from keras_bilevel.weighting.weighting import ExampleWeighting


@keras.saving.register_keras_serializable("keras_bilevel")
class LearningToReweight(ExampleWeighting):
    """Weighs the examples of a batch by a clean batch, without memory.

    With `u` the gradient of the clean batch's loss and `l_j` the loss of
    source example `j`,

    ```
    w_j = max(<grad l_j, u>, 0)
    w_j = w_j / sum_i w_i
    g   = sum_j w_j grad l_j  ->  optimizer
    ```

    The paper takes a step with example weights of 0. There, `w` is the negative
    derivative of the clean loss in these weights (its Eq. 12 to 14), which is
    proportional to this inner product. Without any aligned example, the
    gradient of a step is 0.

    Example:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.LearningToReweight())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        kb.data.source_target_batches(
            (x, y), (x_clean, y_clean), source_size=128, target_size=128
        ),
    )
    ```

    Reference:

    - [Ren et al., 2018](https://arxiv.org/abs/1803.09050)
    """

    statistics = ("alignment",)
    l1_normalize = True

    def call(self, alignment):
        return ops.relu(alignment)
