"""Callbacks that see every training step from the inside."""

import keras

from keras_bilevel.callbacks.keeper import Keeper
from keras_bilevel.engine import gather
from keras_bilevel.engine import make_once


class Observer(Keeper):
    """A callback whose `observe` is part of the compiled training step.

    To write one, subclass it and implement `observe`, with `keras.ops` and
    without Python conditions on what is in the tensors. What it keeps is in
    `variable`s, so that it sees every step under `steps_per_execution` too,
    and is saved and restored with the model's weights while the callback is
    in `fit` of a `BilevelModel` or a `SelectionModel`.

    A step has these attributes, for one replica:

    - `batch`: what predictions were made for, with `x`, `y`, `sample_weight`
      and `ids`; of the last two each may be `None`.
    - `y_pred`: the predictions of the training step; of a `SelectionModel` a
      list, one for each network.
    - `weights`: Float tensor of shape `(groups, units)`, what each unit
      counted: shards or examples, in one group for the whole network, or one
      for each layer. Of a `SelectionModel` a group is a network, and a weight
      is 1 where it kept the example.
    - `losses`: Float tensor of shape `(parts,)`, the mean loss of each shard,
      the loss of each example, or of a `SelectionModel` the mean loss of what
      each network kept.
    - `has_loss`: Boolean tensor of shape `(parts,)`, where there is one.
    - `dropped`: Boolean tensor of the shards, or of the examples, whose loss
      or gradient is not finite.
    - `usable_examples()`: Boolean tensor of shape `(batch_size,)`, the
      examples that were not dropped.

    Example:

    ```python
    class MeanWeight(kb.callbacks.Observer):
        def build(self):
            self.variable("total", (), "float32")
            self.variable("steps", (), "float32")

        def observe(self, step):
            weights = self.gather(keras.ops.mean(step.weights, axis=0))
            total = self.variable("total", (), "float32")
            total.assign_add(keras.ops.mean(weights))
            self.variable("steps", (), "float32").assign_add(1.0)

        def result(self):
            state = self.get_state()
            return state["total"] / state["steps"]
    ```
    """

    def __init__(self):
        super().__init__()
        self._variables = {}
        self._restored = {}

    def set_model(self, model):
        super().set_model(model)
        self._check_model(model)
        self.build()

    def _check_model(self, model):
        """Raises `ValueError` for a model whose steps it cannot observe."""
        if not hasattr(model, "scheme"):
            raise ValueError(
                "Expected a `kb.BilevelModel` or a `kb.SelectionModel` for "
                f"`{type(self).__name__}`, which takes part in their training "
                f"step. Received: a `{type(model).__name__}`. Wrap the "
                "network, or use `kb.callbacks.LabelCurves`, which works with "
                "any Keras model."
            )

    def build(self):
        """Makes the variables whose shapes are known.

        A step that creates variables while it is traced is traced twice.
        """

    def observe(self, step):
        """Takes note of one training step.

        With several replicas each of them calls this with its own part of the
        step. What is kept has to be the same on all: `gather` joins the parts
        first.

        Args:
            step: The step, with the attributes that the class documents.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `observe(step)`."
        )

    def gather(self, tensor):
        """Returns the rows of a tensor on all replicas, joined.

        Args:
            tensor: Tensor of shape `(n, ...)`.

        Returns:
            Tensor of shape `(replicas * n, ...)`, the same on each replica.
        """
        return gather(tensor)

    def check(self, num_examples):
        """Checks that it can observe ids in `[0, num_examples)`.

        Called before the first step where the number is known.

        Args:
            num_examples: Integer, of the training data.

        Raises:
            ValueError: If it cannot.
        """

    def variable(self, name, shape, dtype):
        """Returns the variable `name`, of zeros at first.

        With several replicas each has a copy.

        Args:
            name: String. The same name is the same variable.
            shape: Tuple of integers.
            dtype: String.

        Returns:
            `keras.Variable`.
        """
        if name not in self._variables:
            make_once(lambda: self._make(name, shape, dtype), self.model)
        return self._variables[name]

    def _make(self, name, shape, dtype):
        self._variables[name] = keras.Variable(
            _Restored(self._restored.pop(name, 0)),
            shape=shape,
            dtype=dtype,
            trainable=False,
        )

    @property
    def variables(self):
        """All variables so far, a list of `keras.Variable`."""
        return list(self._variables.values())

    def get_state(self):
        # With JAX, Keras brings variables up to date when a callback asks for
        # its model.
        self.model  # noqa: B018
        variables = {name: v.numpy() for name, v in self._variables.items()}
        return {**self._restored, **variables}

    def set_state(self, state):
        for name, value in state.items():
            if name in self._variables:
                self._variables[name].assign(value)
            else:
                self._restored[name] = value

    def __getstate__(self):
        # Variables belong to a strategy, and to the step that was traced.
        return {
            **super().__getstate__(),
            "_variables": {},
            "_restored": Observer.get_state(self),
        }


class _Restored(keras.initializers.Initializer):
    """Begins with values that were restored, or with zeros.

    Args:
        value: NumPy array of the variable's shape, or `0`.
    """

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        value = keras.ops.convert_to_tensor(self.value, dtype)
        return keras.ops.broadcast_to(value, shape)
