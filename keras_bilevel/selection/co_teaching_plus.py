"""Co-teaching among the examples on which the networks disagree."""

import keras
from keras import ops

from keras_bilevel.selection.co_teaching import CoTeaching


@keras.saving.register_keras_serializable("keras_bilevel")
class CoTeachingPlus(CoTeaching):
    """Co-teaching, among the examples that two networks tell differently.

    R(t) is a share of the examples on which the networks disagree, which
    keeps the two from growing alike. A batch without disagreement changes
    nothing.

    Example:

    ```python
    model = kb.SelectionModel(
        [net_a, net_b],
        rule=kb.selection.CoTeachingPlus(),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    ```

    Reference:

    - [Yu et al., 2019](https://arxiv.org/abs/1901.04215)
    """

    def call(self, losses, share, disagree):
        among = ops.where(disagree, losses, float("inf"))
        return super().call(among, share, disagree)
