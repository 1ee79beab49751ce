"""Each network learns from its own small losses."""

import keras

from keras_bilevel.selection.rule import Rule
from keras_bilevel.selection.smallest import smallest


@keras.saving.register_keras_serializable("keras_bilevel")
class SelfPaced(Rule):
    """Keeps the examples with the smallest losses for the network itself.

    This is self-paced learning, and the predefined curriculum of MentorNet. One
    network is enough, but it reinforces its own selection errors. `CoTeaching`
    avoids this with a second network.

    Example:

    ```python
    model = kb.SelectionModel(
        net,
        rule=kb.selection.SelfPaced(),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    ```

    Reference:

    - [Kumar et al., 2010](https://papers.nips.cc/paper/3923)
    - [Jiang et al., 2018](https://arxiv.org/abs/1712.05055)
    """

    num_networks = None

    def call(self, losses, share, disagree, epoch):
        return smallest(losses, share)
