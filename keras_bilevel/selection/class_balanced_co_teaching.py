"""Co-teaching that keeps a share of every class."""

import keras
from keras import ops

from keras_bilevel.selection.rule import Rule
from keras_bilevel.selection.smallest import num_kept


@keras.saving.register_keras_serializable("keras_bilevel")
class ClassBalancedCoTeaching(Rule):
    """Co-teaching that keeps R(t) of each class, and not of the batch.

    Easy or frequent classes have small losses. If a whole batch is ranked, few
    examples of other classes are kept, and the networks soon forget these
    classes. Here, of the `n_c` examples of class `c` in a batch, the
    `ceil(R(t) n_c)` with the smallest losses for the peer are kept. The only
    example of a class is kept whenever R(t) > 0, so batches should hold several
    examples of each class.

    Labels are integers or one-hot vectors, one class per example.

    Example:

    ```python
    model = kb.SelectionModel(
        [net_a, net_b],
        rule=kb.selection.ClassBalancedCoTeaching(),
        schedule=kb.schedules.CoTeachingSchedule(tau=0.5),
    )
    ```

    Reference:

    - [Han et al., 2018](https://arxiv.org/abs/1804.06872), Algorithm 1, with
      a ranking within each class
    """

    needs = ("classes",)

    def call(self, losses, share, disagree, epoch, classes):
        is_there = ops.isfinite(losses)
        place = ops.arange(ops.shape(losses)[-1])
        # Pairs [network, i, j]: whether j is of i's class, and ranks before i.
        one, other = losses[:, :, None], losses[:, None, :]
        peers = (classes[:, None] == classes) & is_there[:, None, :]
        is_first = (other < one) | ((other == one) & (place < place[:, None]))
        rank = ops.sum(ops.cast(peers & is_first, "float32"), axis=-1)
        count = ops.sum(ops.cast(peers, "float32"), axis=-1)
        easy = is_there & (rank < num_kept(share, count))
        return ops.flip(easy, axis=0)
