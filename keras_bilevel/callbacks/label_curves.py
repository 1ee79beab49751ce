"""How far the network follows wrong labels: Figs. 1 and 3 of the paper."""

import dataclasses

import keras
import numpy as np

from keras_bilevel import keras_private
from keras_bilevel.callbacks import agreement
from keras_bilevel.callbacks import dynamics
from keras_bilevel.callbacks import outputs
from keras_bilevel.callbacks.keeper import EpochCurves
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.data.arrays import unpack_arrays
from keras_bilevel.data.batches import check_labels
from keras_bilevel.data.batches import get_masks
from keras_bilevel.data.batches import set_masks
from keras_bilevel.engine import predicted
from keras_bilevel.engine import scope_of
from keras_bilevel.engine.compiled_losses import outputs_of
from keras_bilevel.extras import axes_or_new


class LabelCurves(EpochCurves):
    """Records accuracy on given labels, clean labels and test data.

    It works with any Keras model that has a compiled loss, which tells what
    labels and predictions mean. Each recording takes a prediction pass over `x`
    and the test data. The last epoch is always recorded. A model of this
    package saves the curves with its weights while the callback is in `fit`, so
    that a resumed run has them all; a plain Keras model does not.

    Accuracy is the share of right classes; of tokens and pixels those count
    that are neither masked nor of `ignore_class`. For several labels, each 0 or
    1, it is the share of right values.

    Args:
        x: Training inputs, an array or a structure of arrays.
        y_given: The labels trained on, an array: classes, one-hot, or 0 or 1;
            for several outputs those of `output` or a structure as for `fit`.
        y_clean: The true labels, where they are known. Defaults to `None`.
        test_data: Tuple `(x, y)`. Defaults to `None`.
        every: Integer, number of epochs between two recordings. Defaults to
            `1`.
        batch_size: Integer, for prediction. Defaults to `1024`.
        output: Name or index of the output to watch, where there are several.
            Defaults to `None`.

    Attributes:
        curves: Dict of lists of equal lengths: `epoch` (from 1 on, over all
            calls of `fit`), `train_given`, `train_clean` and `test`;
            accuracies in [0, 1].
        example_scores: Float array of shape `(num_examples,)`, the mean over
            all recordings with finite predictions of the score that
            `ExampleHistory` documents. A low value makes a label suspect, for
            plain Keras models too.
        given_probability: The same, where scores are probabilities; otherwise
            it raises `ValueError`.

    Raises:
        ValueError: If labels are text, or if an example has none. When `fit`
            begins, if labels are not classes, as in a regression, or are out
            of range. `ExampleHistory` takes labels of any kind.

    Example:

    ```python
    curves = kb.callbacks.LabelCurves(x, y_noisy, y, (x_test, y_test))
    model.fit(x, y_noisy, epochs=30, callbacks=[curves])
    curves.plot().figure.savefig("curves.png")
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
        output=None,
    ):
        super().__init__(("train_given", "train_clean", "test"), every)
        self.x = x
        self.y_given = _read_labels("y_given", (x, y_given))
        self.y_clean = None
        if y_clean is not None:
            self.y_clean = _read_labels("y_clean", (x, y_clean))
        self.test_data = None
        if test_data is not None:
            y_test = _read_labels("test_data", test_data)
            self.test_data = test_data[0], y_test
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.output = output
        self._sums = self._codes = self._visits = np.zeros(())
        self._are_ranks = False
        self._predictor = None

    def set_model(self, model):
        super().set_model(model)
        with scope_of(model):
            self._predictor = _Predictor(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        some = keras.tree.map_structure(
            lambda a: a[: self.batch_size], (self.x, self.y_given)
        )
        output = self._read(*some)
        for y in (self.y_given, self.y_clean, (self.test_data or (None,))[-1]):
            if y is not None:
                self._check_classes(self._labelled(output, y))

    @property
    def example_scores(self):
        self._check_seen(self.curves["epoch"])
        # Where nothing was finite it is NaN.
        seen = np.where(self._visits > 0, self._visits, np.nan)
        return self._sums[:, 0] / seen

    @property
    def given_probability(self):
        score = self.example_scores
        agreement.check_probability(self._are_ranks, self)
        return score

    def record(self):
        output = self._read(self.x, self.y_given)
        self._append("train_given", output)
        if self.y_clean is not None:
            clean = self._labelled(output, self.y_clean)
            self._append("train_clean", clean)
        if self.test_data is not None:
            self._append("test", self._read(*self.test_data))
        values, self._are_ranks = dynamics.of_batch(output)
        if self._are_ranks:
            values = dynamics.ranked(values)
        self._add(values)

    def _add(self, values):
        visits, codes = (
            np.broadcast_to(before, len(values)).astype("int32")
            for before in (self._visits, self._codes)
        )
        added, visited, code = (
            keras.ops.convert_to_numpy(part)
            for part in dynamics.additions(values, visits, codes)
        )
        self._sums = self._sums + added
        self._visits = visits + visited
        self._codes = np.maximum(codes, code)

    def label_scores(self):
        """Returns all that training said of each label.

        Returns:
            `pandas.DataFrame`, that of `ExampleHistory.label_scores`; a visit
            is a recording with finite predictions.
        """
        self._check_seen(self.curves["epoch"])
        return dynamics.table(self._sums, self._visits, self._are_ranks)

    def get_state(self):
        kept = ("_sums", "_codes", "_visits", "_are_ranks")
        kept = {name: np.array(getattr(self, name)) for name in kept}
        return {**super().get_state(), **kept}

    def set_state(self, state):
        super().set_state(state)
        self._sums, self._codes = state["_sums"], state["_codes"]
        self._visits = state["_visits"]
        self._are_ranks = bool(state["_are_ranks"])

    def __getstate__(self):
        return {**super().__getstate__(), "_predictor": None}

    def _read(self, x, y):
        """Returns the `OutputLoss` of an array of examples."""
        y_pred = self._predictor.read(x, self.batch_size)
        all_y, is_nested = y, keras.tree.is_nested
        if is_nested(y_pred) and not is_nested(y):
            # Labels of one output were given. Predictions stand in for the
            # labels of all outputs, to find out which loss belongs to it.
            all_y = y_pred
            compiled = keras_private.compiled_losses(self.model)
            if not compiled.built:
                compiled.build(all_y, y_pred)
        found = outputs_of(self.model, all_y, y_pred)
        return self._labelled(outputs.pick(found, self.output, self), y)

    def _labelled(self, output, y):
        for key in output.path:
            y = y[key] if keras.tree.is_nested(y) else y
        return dataclasses.replace(output, y=np.asarray(y))

    def _check_classes(self, output):
        if not agreement.are_classes(output):
            raise ValueError(
                "Expected labels that are classes, or each 0 or 1, for "
                "`LabelCurves`, since it records accuracy. Received: labels "
                f"of dtype {output.y.dtype} and shape {output.y.shape} for "
                f"predictions of shape {tuple(output.y_pred.shape)} and loss "
                f"`{output.loss.name}`. Use `kb.callbacks.ExampleHistory`, "
                "which has a score for any loss."
            )
        agreement.check_range(output)

    def _append(self, name, output):
        correct = agreement.correct(output)
        counts = np.asarray(agreement.counts(output, correct), "float64")
        share = np.sum(counts * correct) / np.sum(counts)
        self.curves[name].append(float(share))

    def plot(self, ax=None):
        """Plots the curves against epochs.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        self._check_seen(self.curves["epoch"])
        ax = axes_or_new(ax)
        names = {
            "train_given": "train, given labels",
            "train_clean": "train, clean labels",
            "test": "test",
        }
        for name, label in names.items():
            if self.curves[name]:
                ax.plot(self.curves["epoch"], self.curves[name], label=label)
        ax.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
        ax.legend()
        return ax


def _read_labels(name, data):
    """Returns the labels of a pair `(x, y)`, as arrays of numbers."""
    (x, y, _), size = unpack_arrays(name, data)
    check_labels((x, y))
    if not size:
        raise wrong(f"argument `{name}`", "examples", "none")
    return y


class _Predictor(keras.Model):
    """Predicts as a model does, and keeps the masks, which Keras drops."""

    def __init__(self, model):
        super().__init__(name="predictor", dtype=model.dtype_policy)
        self.model = model
        self.compile(
            run_eagerly=model.run_eagerly, jit_compile=model.jit_compile
        )

    def call(self, x):
        y_pred = predicted(self.model, x)
        return {"y_pred": y_pred, "masks": get_masks(y_pred)}

    def read(self, x, batch_size):
        """Returns predictions for an array of examples, with masks."""
        found = self.predict(x, batch_size=batch_size, verbose=0)
        y_pred, masks = keras.tree.map_structure(
            keras.ops.convert_to_tensor,
            (found["y_pred"], found["masks"]),
        )
        return set_masks(y_pred, masks)
