"""Early-learning regularisation: a network keeps to what it predicted first."""

import keras
from keras import ops

from keras_bilevel import checks
from keras_bilevel.engine import add_rows
from keras_bilevel.engine import read_rows
from keras_bilevel.selection.rule import Rule
from keras_bilevel.selection.smallest import smallest


@keras.saving.register_keras_serializable("keras_bilevel")
class EarlyLearning(keras.layers.Layer, Rule):
    """Holds a network to its earlier predictions for each example.

    A memory has the running average of what the network predicts for each
    example. A term of the loss rewards agreement with it, so that wrong labels
    pull less once the network has learnt what is easy. The network learns from
    all examples, or from the share R(t) with the smallest losses if there is a
    schedule. The loss is a cross-entropy of `keras.losses`, of one label for
    each example, and the network has an output for each class, or one for yes
    or no. The sum with the term may become negative.

    Examples need ids: pass arrays to `fit`, or batches of
    `kb.data.shuffled_batches`. The memory has `num_examples * num_classes`
    numbers on every replica, and is saved with the model. It belongs to one set
    of examples: take a new rule for other data.

    Example:

    ```python
    model = kb.SelectionModel(net, kb.selection.EarlyLearning())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=128, epochs=30)
    suspects = model.rule.targets[np.arange(len(y)), y].argsort()
    ```

    Args:
        beta: Float in [0, 1), how much of the memory is kept when an example
            is seen again. Defaults to `0.7`, as in the paper for CIFAR-10; for
            CIFAR-100 it is 0.9.
        strength: Float >= 0, lambda, the factor of the term. Defaults to
            `3.0`, as in the paper for CIFAR-10; for CIFAR-100 it is 7.
        num_examples: Integer, ids are in `[0, num_examples)`. Defaults to
            `None`: `fit` knows it of arrays, and of datasets of `kb.data`.

    Attributes:
        targets: Array of shape `(num_examples, num_classes)`, the memory. The
            probability of the given label is low where a label is suspect.
            For one output, the two columns are no and yes.

    Raises:
        ValueError: If `beta` is not in [0, 1), `strength` is negative, or
            `num_examples` is not a positive integer.

    Reference:

    - [Liu et al., 2020](https://arxiv.org/abs/2007.00151), Eqs. 6 and 9
    """

    num_networks = 1
    remembers = True

    def __init__(self, beta=0.7, strength=3.0, num_examples=None):
        super().__init__(dtype="float32")
        self.beta = checks.check_share("beta", beta)
        if self.beta == 1.0:
            expected = "a float in [0, 1): with 1 nothing would be remembered"
            raise checks.wrong_argument("beta", beta, expected)
        self.strength = checks.check_positive(
            "strength", strength, or_zero=True
        )
        if num_examples is not None:
            checks.check_integer("num_examples", num_examples, 1)
        self.num_examples = num_examples
        self.memory = None

    def call(self, losses, share, disagree, epoch):
        return smallest(losses, share)

    def prepare(self, num_examples, num_classes):
        if self.memory is not None:
            return
        if self.num_examples is None:
            self.num_examples = num_examples
        if self.num_examples is None:
            raise checks.unknown_size(self)
        self.memory = self.add_weight(
            shape=(self.num_examples, num_classes),
            initializer="zeros",
            trainable=False,
            name="memory",
        )
        self.built = True

    def forget(self):
        if self.memory is not None:
            self.memory.assign(ops.zeros_like(self.memory))

    def remember(self, ids, probabilities, usable):
        moves = probabilities - read_rows(self.memory, ids)
        moves = ops.where(usable[:, None], (1.0 - self.beta) * moves, 0.0)
        # Eq. 9, as a difference: an example may be in a batch twice.
        add_rows(self.memory, ids, moves)

    def penalty(self, ids, probabilities):
        targets = ops.stop_gradient(read_rows(self.memory, ids))
        agreement = ops.sum(targets * probabilities, axis=-1)
        # Eq. 6. An agreement of 1 would be infinite.
        return self.strength * ops.log1p(-ops.minimum(agreement, 1.0 - 1e-4))

    @property
    def targets(self):
        if self.memory is None:
            raise ValueError(
                "Expected a trained `EarlyLearning`. Received: one without a "
                "memory yet. Call `fit` first."
            )
        return ops.convert_to_numpy(self.memory)

    def load_own_variables(self, store):
        if "0" not in store.keys():
            return  # It was saved before `fit`.
        size, num_classes = store["0"].shape
        self.prepare(size, num_classes)
        if size != self.num_examples:
            raise ValueError(
                "Expected the examples that the saved memory belongs to. "
                f"Received: num_examples={self.num_examples}, and a memory of "
                f"{size}. Load with the same data, or start anew."
            )
        super().load_own_variables(store)

    def get_config(self):
        return {
            "beta": self.beta,
            "strength": self.strength,
            "num_examples": self.num_examples,
        }
