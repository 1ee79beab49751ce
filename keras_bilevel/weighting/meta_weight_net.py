"""Meta-Weight-Net (Shu et al., 2019)."""

import keras
from keras import ops

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_positive
from keras_bilevel.weighting.weighting import ExampleWeighting


@keras.saving.register_keras_serializable("keras_bilevel")
class MetaWeightNet(ExampleWeighting, keras.layers.Layer):
    """Learns a function from an example's loss to its weight.

    The function `V` is a network of one hidden layer, with a ReLU, and one
    output, with a sigmoid. A clean batch judges: with `u` the gradient of its
    loss, `l_j` the loss of source example `j`, `n` the size of the source
    batch and `lr` the optimizer's rate,

    ```
    Theta = Theta + meta_lr * lr / n sum_j <grad l_j, u> dV(l_j)/dTheta  (Eq. 6)
    g     = 1/n sum_j V(l_j; Theta) grad l_j  ->  optimizer              (Eq. 5)
    ```

    in this order. If examples of some loss help the clean batch, the weight of
    that loss grows, and the network's step already uses the new weight. The
    paper computes `u` after a trial step with the old `Theta`. Here `u` is
    computed at the current variables, which differs by terms of the order of
    `lr`.

    No example is remembered: ids do not matter, and the source may be infinite.
    `Theta` is saved and restored with the model.

    Args:
        hidden: Integer, units of the hidden layer. Defaults to `100`, as in
            the paper.
        meta_lr: Float, rate of `Theta` relative to the optimizer's, the
            paper's beta. In the first steps all examples help. If the rate is
            too high, all weights become 1, where the sigmoid saturates. Check
            `weight_of`, and lower the rate then. (The authors' code uses Adam
            for `Theta`.) Defaults to `0.03`.

    Example:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.MetaWeightNet())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        kb.data.source_target_batches(
            (x, y), (x_clean, y_clean), source_size=128, target_size=128
        ),
    )
    model.weighting.weight_of([0.1, 1.0, 5.0])
    ```

    Reference:

    - [Shu et al., 2019](https://arxiv.org/abs/1902.07379)
    """

    statistics = ("alignment", "loss")

    def __init__(self, hidden=100, meta_lr=0.03):
        super().__init__(dtype="float32")
        check_integer("hidden", hidden, 1)
        check_positive("meta_lr", meta_lr)
        self.hidden = hidden
        self.meta_lr = meta_lr
        # Biases are not 0, so that units have their kinks at different losses.
        self.kernel = self._add("kernel", hidden, 1.0)
        self.bias = self._add("bias", hidden, 1.0)
        self.kernel_out = self._add("kernel_out", hidden, hidden**-0.5)
        self.bias_out = self._add("bias_out", 1, hidden**-0.5)
        self.built = True

    def _add(self, name, size, limit):
        return self.add_weight(
            shape=(size,),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            trainable=False,
            name=name,
        )

    def weight_of(self, loss):
        """Returns the weights of losses, V(loss).

        Args:
            loss: Float tensor of any shape.

        Returns:
            Float tensor of that shape.
        """
        return self._forward(ops.convert_to_tensor(loss, "float32"))[1]

    def _forward(self, loss):
        units = ops.relu(loss[..., None] * self.kernel + self.bias)
        score = ops.sum(units * self.kernel_out, axis=-1) + self.bias_out[0]
        return units, ops.sigmoid(score)

    def call(self, alignment, loss):
        return self.weight_of(loss)

    def update(self, ids, statistics, learning_rate):
        alignment, loss = statistics["alignment"][0], statistics["loss"][0]
        units, weight = self._forward(loss)
        size = ops.cast(ops.shape(loss)[0], "float32")
        # Eq. 6: dV = V (1 - V) dscore, then back-propagation through the
        # layers.
        of_score = (alignment * weight * (1.0 - weight))[:, None]
        of_score *= self.meta_lr * learning_rate / size
        of_units = ops.where(units > 0, of_score * self.kernel_out, 0.0)
        self.kernel_out.assign_add(ops.sum(of_score * units, axis=0))
        self.bias_out.assign_add(ops.sum(of_score, axis=0))
        self.kernel.assign_add(ops.sum(of_units * loss[:, None], axis=0))
        self.bias.assign_add(ops.sum(of_units, axis=0))

    def get_config(self):
        return {"hidden": self.hidden, "meta_lr": self.meta_lr}
