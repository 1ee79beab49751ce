"""SOSELETO (Litany & Freedman, 2018)."""

import keras
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_positive
from keras_bilevel.checks import unknown_size
from keras_bilevel.checks import wrong_argument
from keras_bilevel.engine import add_rows
from keras_bilevel.engine import read_rows
from keras_bilevel.engine import write_rows
from keras_bilevel.weighting.weighting import ExampleWeighting


@keras.saving.register_keras_serializable("keras_bilevel")
class Soseleto(ExampleWeighting, keras.layers.Layer):
    """Learns a weight for every source example from a target batch's gradient.

    Each step takes a source batch with noisy labels, or with other labels than
    the target's, and a target batch. With `u` the gradient of the target's
    loss in what both networks share (theta), `l_j` the loss of source example
    `j`, `L` the size of the source batch and `lr` the optimizer's rate,

    ```
    g       = 1/L sum_j alpha_j grad l_j  ->  optimizer             (Eq. 3)
    alpha_j = clip(alpha_j + alpha_lr * lr * <grad l_j, u>)         (Eq. 5)
    ```

    Variables of the target network alone get the gradient of the target's loss
    (Algorithm 1). The weights are remembered over steps, and saved and restored
    with the model. They show which source examples help and which labels are
    wrong. They belong to one source set: take a new weighting for another one.
    The paper's Eq. 5 has a factor `1 / num_examples`, so that its
    `alpha_lr` would have to be of the order of `num_examples`. Here `alpha_lr`
    includes this factor.

    Examples at a bound of `clip` have equal `example_weights`. `example_scores`
    still distinguishes them: it is the sum of all changes, unclipped. Which of
    the two ranks better depends on the noise. On MNIST,
    `kb.callbacks.ExampleHistory` ranked better than both.

    Args:
        num_examples: Integer, size of the source set; ids are in
            `[0, num_examples)`. Defaults to `None`: `fit` asks a dataset of
            `kb.data.source_target_batches`.
        alpha_lr: Float, rate of the weights relative to the optimizer's.
            Defaults to `1.0`.
        initial: Float, what every weight starts at. Defaults to `1.0`.
        clip: Tuple of floats, range of the weights. Defaults to
            `(0.0, 1.1)`: room for relevant examples to grow.
        update_weights_first: Boolean. `True` applies Eq. 5 before Eq. 3, so
            that the network's step already uses the new weights. It costs
            another backward pass. Defaults to `False`, Algorithm 1.

    Attributes:
        example_weights: Array of shape `(num_examples,)`, alpha.
        example_scores: Array of shape `(num_examples,)`, the cumulative
            alignment: the lower, the more suspect.

    Example:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.Soseleto(len(x)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        kb.data.source_target_batches(
            (x, y), (x_clean, y_clean), source_size=256, target_size=32
        ),
        epochs=30,
    )
    suspects = model.weighting.example_scores.argsort()
    ```

    Reference:

    - [Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622)
    """

    statistics = ("alignment",)

    def __init__(
        self,
        num_examples=None,
        alpha_lr=1.0,
        initial=1.0,
        clip=(0.0, 1.1),
        update_weights_first=False,
    ):
        super().__init__(dtype="float32")
        _check(num_examples, alpha_lr, initial, clip)
        self.num_examples = None
        self.alpha_lr = alpha_lr
        self.initial = initial
        self.clip = tuple(clip)
        self.update_weights_first = update_weights_first
        if num_examples is not None:
            self.prepare(num_examples)

    def prepare(self, num_examples):
        if self.num_examples is not None:
            return
        if num_examples is None:
            raise unknown_size(self)
        self.num_examples = num_examples
        self.alpha = self.add_weight(
            shape=(num_examples,),
            initializer=keras.initializers.Constant(self.initial),
            trainable=False,
            name="alpha",
        )
        self.cumulative = self.add_weight(
            shape=(num_examples,),
            initializer="zeros",
            trainable=False,
            name="cumulative_alignment",
        )
        self.built = True

    @property
    def example_weights(self):
        self.prepare(None)
        return ops.convert_to_numpy(self.alpha)

    @property
    def example_scores(self):
        self.prepare(None)
        return ops.convert_to_numpy(self.cumulative)

    def recall(self, ids):
        self.prepare(None)
        return read_rows(self.alpha, ids)[None]

    def update(self, ids, statistics, learning_rate):
        moves = self.alpha_lr * learning_rate * statistics["alignment"][0]
        # An example may be in a batch twice.
        add_rows(self.alpha, ids, moves)
        alpha = ops.clip(read_rows(self.alpha, ids), *self.clip)  # Eq. 5
        write_rows(self.alpha, ids, alpha)
        add_rows(self.cumulative, ids, moves)

    def load_own_variables(self, store):
        # Keras tries several places and reports the last one's error.
        saved = store["0"].shape[0] if "0" in store.keys() else "no such"
        if self.num_examples is None:
            if saved == "no such":
                # It was saved before `fit` knew the size of the source set.
                return
            self.prepare(saved)
        if saved != self.num_examples:
            raise ValueError(
                "Expected a source set of the size that the saved weights "
                f"belong to. Received: num_examples={self.num_examples}, and "
                f"{saved} saved weights. Each weight belongs to its example: "
                "load with the same source set, or start with a new "
                "`Soseleto`."
            )
        super().load_own_variables(store)

    def get_config(self):
        return {
            "num_examples": self.num_examples,
            "alpha_lr": self.alpha_lr,
            "initial": self.initial,
            "clip": self.clip,
            "update_weights_first": self.update_weights_first,
        }


def _check(num_examples, alpha_lr, initial, clip):
    if num_examples is not None:
        check_integer("num_examples", num_examples, 1)
    check_positive("alpha_lr", alpha_lr)
    if len(clip) != 2 or not 0 <= clip[0] < clip[1]:
        raise wrong_argument(
            "clip", clip, "a tuple (lowest, highest) with 0 <= lowest < highest"
        )
    if not clip[0] <= initial <= clip[1]:
        raise wrong_argument("initial", initial, f"a float within clip={clip}")
