"""Each of two networks learns from the other's small losses."""

import keras
from keras import ops

from keras_bilevel.selection.rule import Rule
from keras_bilevel.selection.smallest import smallest


@keras.saving.register_keras_serializable("keras_bilevel")
class CoTeaching(Rule):
    """Keeps for one network the examples that are easy for its peer.

    Two networks with different initial weights make different errors. So a
    network does not train its peer on what it has itself memorized.

    Example:

    ```python
    model = kb.SelectionModel(
        [net_a, net_b],
        rule=kb.selection.CoTeaching(),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    ```

    Reference:

    - [Han et al., 2018](https://arxiv.org/abs/1804.06872), Algorithm 1
    """

    def call(self, losses, share, disagree, epoch):
        return ops.flip(smallest(losses, share), axis=0)
