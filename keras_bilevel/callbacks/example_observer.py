"""Callbacks that keep something for every example."""

from keras_bilevel.callbacks.observer import Observer


class ExampleObserver(Observer):
    """An observer of batches with ids, for a known number of examples.

    Args:
        num_examples: Integer, ids are in `[0, num_examples)`.
    """

    def __init__(self, num_examples):
        super().__init__()
        if num_examples < 1:
            raise ValueError(
                "Invalid value for argument `num_examples`. Expected a "
                f"positive integer. Received: num_examples={num_examples}"
            )
        self.num_examples = num_examples

    def check(self, num_examples):
        if num_examples > self.num_examples:
            raise ValueError(
                "Invalid value for argument `num_examples` of "
                f"`{type(self).__name__}`. Expected at least the number of "
                f"training examples, {num_examples}. "
                f"Received: num_examples={self.num_examples}"
            )

    def ids(self, step):
        """Returns the ids of a `gradients.Step`, `(batch_size,)`."""
        if step.batch.ids is None:
            raise ValueError(
                f"Expected batches with ids for `{type(self).__name__}`. "
                "Received: batches without. Pass arrays to `fit`, or build "
                "them with `kb.data.stratified_batches(..., ids=True)`; for "
                "sample selection `kb.data.shuffled_batches` will do."
            )
        return step.batch.ids
