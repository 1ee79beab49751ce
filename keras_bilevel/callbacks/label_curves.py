"""How far the network follows wrong labels: Figs. 1 and 3 of the paper."""

import keras
import numpy as np

from keras_bilevel.callbacks import labels


class LabelCurves(keras.callbacks.Callback):
    """Records accuracy on given labels, clean labels and test data.

    Works with any Keras model with one output; costs a prediction pass over
    `x` and the test data each time it records. The last epoch is always
    recorded.

    Args:
        x: Training inputs, an array or a structure of arrays.
        y_given: The labels trained on, integers or one-hot.
        y_clean: The true labels, where they are known. Defaults to `None`.
        test_data: Tuple `(x, y)`. Defaults to `None`.
        every: Integer, number of epochs between two recordings. Defaults to
            `1`.
        batch_size: Integer, for prediction. Defaults to `1024`.

    Attributes:
        curves: Dict of lists of equal lengths: `epoch` (from 1 on),
            `train_given`, `train_clean` and `test`; accuracies in [0, 1].
        given_probability: Float array of shape `(num_examples,)`: mean over
            all recordings of the probability of the given label. A low value
            makes a label suspect, for plain Keras models too.

    Example:

    ```python
    curves = kb.callbacks.LabelCurves(x, y_noisy, y, (x_test, y_test))
    model.fit(x, y_noisy, epochs=30, callbacks=[curves])
    curves.plot().savefig("curves.png")
    ```

    Reference:

    - [Jenni & Favaro, 2018](https://arxiv.org/abs/1809.01465), Figs. 1, 3
    """

    def __init__(
        self,
        x,
        y_given,
        y_clean=None,
        test_data=None,
        every=1,
        batch_size=1024,
    ):
        super().__init__()
        self.x = x
        self.y_given = y_given
        self.y_clean = y_clean
        self.test_data = test_data
        self.every = every
        self.batch_size = batch_size
        self.curves = {
            "epoch": [],
            "train_given": [],
            "train_clean": [],
            "test": [],
        }
        self._sum = 0.0
        self._last_epoch = None

    @property
    def given_probability(self):
        return self._sum / max(len(self.curves["epoch"]), 1)

    def on_epoch_end(self, epoch, logs=None):
        self._last_epoch = epoch + 1
        if self._last_epoch % self.every == 0:
            self._record()

    def on_train_end(self, logs=None):
        if self._last_epoch not in (None, *self.curves["epoch"][-1:]):
            self._record()

    def _record(self):
        self.curves["epoch"].append(self._last_epoch)
        y_pred = self._predict(self.x)
        self._append("train_given", y_pred, self.y_given)
        if self.y_clean is not None:
            self._append("train_clean", y_pred, self.y_clean)
        if self.test_data is not None:
            x_test, y_test = self.test_data
            self._append("test", self._predict(x_test), y_test)
        probability = labels.given_probability(
            self.y_given, y_pred, labels.predicts_logits(self.model.loss)
        )
        self._sum = self._sum + keras.ops.convert_to_numpy(probability)

    def _predict(self, x):
        return self.model.predict(x, batch_size=self.batch_size, verbose=0)

    def _append(self, name, y_pred, y):
        if y_pred.shape[-1] == 1:
            logits = labels.predicts_logits(self.model.loss)
            predicted = y_pred[:, 0] > (0.0 if logits else 0.5)
        else:
            predicted = labels.classes(y_pred)
        correct = predicted == labels.classes(np.asarray(y))
        self.curves[name].append(float(np.mean(correct)))

    def plot(self, title=None):
        """Returns a `matplotlib` figure of the curves against epochs."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        names = {
            "train_given": "train, given labels",
            "train_clean": "train, clean labels",
            "test": "test",
        }
        for name, label in names.items():
            if self.curves[name]:
                axes.plot(self.curves["epoch"], self.curves[name], label=label)
        axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1), title=title)
        axes.legend()
        return figure
