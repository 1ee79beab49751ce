"""Co-teaching among the examples on which the networks disagree."""

import keras
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.selection.co_teaching import CoTeaching


@keras.saving.register_keras_serializable("keras_bilevel")
class CoTeachingPlus(CoTeaching):
    """Co-teaching, among the examples on which two networks disagree.

    R(t) is a share of these examples, which keeps the two networks different. A
    batch without disagreement changes nothing.

    Args:
        warm_up: Integer, how many epochs are plain Co-teaching first. Of 200
            epochs, the authors' code uses 20 on CIFAR-10, 5 on CIFAR-100 and
            none on MNIST. Defaults to `0`.

    Example:

    ```python
    model = kb.SelectionModel(
        [net_a, net_b],
        rule=kb.selection.CoTeachingPlus(warm_up=3),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    ```

    Reference:

    - [Yu et al., 2019](https://arxiv.org/abs/1901.04215)
    """

    def __init__(self, warm_up=0):
        self.warm_up = check_integer("warm_up", warm_up, 0)

    def call(self, losses, share, disagree, epoch):
        eligible = disagree | (epoch < self.warm_up)
        among = ops.where(eligible, losses, float("inf"))
        return super().call(among, share, disagree, epoch)

    def get_config(self):
        return {"warm_up": self.warm_up}
