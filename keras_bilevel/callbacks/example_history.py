"""Which labels to look at, from the predictions made while training."""

import numpy as np

from keras_bilevel.callbacks import agreement
from keras_bilevel.callbacks import dynamics
from keras_bilevel.callbacks import outputs
from keras_bilevel.callbacks.example_observer import ExampleObserver
from keras_bilevel.engine import add_rows
from keras_bilevel.engine import raise_rows
from keras_bilevel.engine import read_rows
from keras_bilevel.extras import axes_or_new


class ExampleHistory(ExampleObserver):
    """Keeps how far the network believes each example's given label.

    The predictions are those of the training steps: there is no extra pass. A
    low score makes a label suspect: the network did not come to believe it,
    because the gradients of other examples did not agree with it.

    The score of a visit depends on the loss of the output:

    - Cross-entropies of Keras, the focal and the generalized one too: the
      probability of the given label. Of several labels, each 0 or 1, it is
      the mean probability of the given values.
    - Any other loss, for instance of a regression, or a function of your own:
      its rank: the share of the batch with a higher loss, where ties and the
      example itself count half. 1 is the lowest loss and 0 the highest.

    For an example with several numbers, such as tokens or pixels, the score is
    the mean over those that count. Masked ones, those of `ignore_class` and
    those of sample weight 0 do not count. An example in which nothing counts,
    or whose data are not finite, is not visited.

    It needs ids: `fit` on arrays gives them (the row numbers);
    `kb.data.stratified_batches` does with `ids=True`. An id has to belong to
    the same example in each epoch; where labels show that it does not, an error
    says so.

    Args:
        num_examples: Integer, ids are in `[0, num_examples)`. Defaults to
            `None`: `fit` knows it of arrays, and of datasets of `kb.data`.
        output: Name or index of the output to watch, where there are several.
            Defaults to `None`.

    Attributes:
        example_scores: Float array of shape `(num_examples,)`, the mean score
            over all visits, in [0, 1]; NaN where an example was never
            visited. What `kb.report` ranks by.
        given_probability: The same, where scores are probabilities; otherwise
            it raises `ValueError`.

    Example:

    ```python
    history = kb.callbacks.ExampleHistory(len(x))
    model.fit(x, y, batch_size=128, epochs=30, callbacks=[history])
    kb.report.suspects(history, y).head(100)
    ```
    """

    def __init__(self, num_examples=None, output=None):
        super().__init__(num_examples)
        self.output = output

    def build(self):
        super().build()
        self._kept()
        self._are_ranks()

    def on_train_begin(self, logs=None):
        outputs.check(self.model, self.output, self)

    def observe_examples(self, step, ids, found, healthy):
        output = outputs.pick(found, self.output, self)
        values, are_ranks = dynamics.of_batch(output, healthy)
        values = self.gather(values)
        if are_ranks:
            values = dynamics.ranked(values)
        self._are_ranks().assign(int(are_ranks))
        self._add(ids, values)

    def _add(self, ids, values):
        sums, visits, codes = self._kept()
        before = read_rows(visits, ids), read_rows(codes, ids)
        added, visited, code = dynamics.additions(values, *before)
        add_rows(sums, ids, added)
        add_rows(visits, ids, visited)
        raise_rows(codes, ids, code)

    def _kept(self):
        n = self.num_examples
        return (
            self.variable("sums", (n, len(dynamics.SUMMED)), "float32"),
            self.variable("visits", (n,), "int32"),
            self.variable("codes", (n,), "int32"),
        )

    def _are_ranks(self):
        return self.variable("are_ranks", (), "int32")

    def _seen(self):
        self._check_seen(self.num_examples)
        sums, visits, _ = (variable.numpy() for variable in self._kept())
        self._check_seen(visits)
        return sums, visits

    @property
    def example_scores(self):
        sums, visits = self._seen()
        mean = sums[:, 0] / np.maximum(visits, 1)
        return np.where(visits > 0, mean, np.nan)

    @property
    def given_probability(self):
        score = self.example_scores
        agreement.check_probability(self._are_ranks().numpy(), self)
        return score

    def label_scores(self):
        """Returns all that training said of each label.

        Returns:
            `pandas.DataFrame`, a row for each example, in the order of the
            data; NaN where it was never visited:

            - `score`: the mean score, which is `example_scores`;
            - `variability`: its standard deviation over visits;
            - `loss`: the mean loss;
            - `correctness`: the share of visits whose prediction was the given
              label;
            - `margin`: the mean of the given label's logit minus the largest
              other one (area under the margin);
            - `forgetting`: how often a right prediction was followed by a wrong
              one. Of several tokens or pixels, most have to be right;
            - `visits`: how many predictions were seen.

            Where labels are not classes, `correctness`, `margin` and
            `forgetting` are missing. A label is suspect if its `loss` is high,
            or if its `score`, `correctness` or `margin` is low. So losses need
            a minus sign: `kb.report.suspects(-table["loss"])`.
            What `variability` and `forgetting` say depends on the data.

        Reference:

        - [Swayamdipta et al., 2020](https://arxiv.org/abs/2009.10795), the
          first four
        - [Pleiss et al., 2020](https://arxiv.org/abs/2001.10528), `margin`
        - [Toneva et al., 2019](https://arxiv.org/abs/1812.05159),
          `forgetting`
        """
        return dynamics.table(*self._seen(), bool(self._are_ranks().numpy()))

    def plot(self, ax=None):
        """Plots how many examples have which score.

        Args:
            ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, those
                of a new figure.

        Returns:
            `matplotlib.axes.Axes`.
        """
        score = self.example_scores
        ax = axes_or_new(ax)
        ax.hist(score[~np.isnan(score)], bins=50, range=(0, 1))
        ax.set(xlabel="score of the given label", ylabel="examples")
        return ax
