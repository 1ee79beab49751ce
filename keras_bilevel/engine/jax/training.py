"""How Keras trains with JAX: a step is a function of all state."""

import jax
import keras

from keras_bilevel import keras_private
from keras_bilevel.data.batches import map_tensors
from keras_bilevel.engine.jax import scope


class StepOfBackend(keras_private.JaxHooks):
    """Gives `keras.Model` the `train_step` of JAX; a mixin."""

    # The shapes and types of the batches that Keras has built the model on.
    _batch = None

    @property
    def metrics_variables(self):
        # Whatever a step updates has to be among the state that Keras hands on.
        variables = [*super().metrics_variables, *self.kept_variables()]
        return list({id(v): v for v in variables}.values())

    def train_step(self, state, data):
        groups = self._groups()
        values = {
            id(variable): value
            for group, part in zip(groups, state)
            for variable, value in zip(group, part)
        }
        with scope.Scope(values) as step:
            logs = self.take_step(data)
        if not self._is_rehearsing:
            scope.check_known(step.updated, values)
        return logs, tuple(
            [step.state_mapping[id(variable)] for variable in group]
            for group in groups
        )

    def jax_state_sync(self):
        # Keras calls it whenever a callback asks for its model. Within a step
        # variables have the values of the step.
        if keras_private.current_scope() is None:
            super().jax_state_sync()

    def _groups(self):
        return (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )

    def build_on_first_batch(self, iterator, data_batch):
        if data_batch is None:
            for _, _, batches in iterator:
                data_batch = next(batches)
                break
        batch = map_tensors(_spec, data_batch)
        # Bypasses the attribute tracking of Keras, which wraps dicts.
        object.__setattr__(self, "_batch", batch)
        keras_private.build_symbolically(self, self.scheme.loss_inputs(batch))

    def build_before_trace(self, batch):
        """Does nothing: Keras builds on the first batch."""

    _is_rehearsing = False

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        self._rehearse()
        super().make_train_function(force=True)
        step_of = self.train_function
        # A compiled step cannot see that an id is out of range.
        self.train_function = lambda state, iterator: step_of(
            state, map(self._checked, iterator)
        )

    def _checked(self, batch):
        self.scheme.parse(batch)
        return batch

    def _rehearse(self):
        """Traces a step once, for what is only created in a step.

        What is created then has a value after that. Only then it can be a part
        of the state.
        """
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        state = [[_spec(v) for v in group] for group in self._groups()]
        self._is_rehearsing = True
        try:
            # Keras initialises variables at the end of the outermost scope.
            with keras.StatelessScope():
                jax.eval_shape(self.train_step, state, self._batch)
        finally:
            self._is_rehearsing = False


def predicted(model, x):
    """Returns what `predict_step` of a Keras model gives for a batch."""
    kept = model.non_trainable_variables
    state = [v.value for v in model.trainable_variables]
    y_pred, values = model.predict_step((state, [v.value for v in kept]), (x,))
    for variable, value in zip(kept, values):
        variable.assign(value)
    return y_pred


def _spec(tensor):
    kind = keras.backend.standardize_dtype(tensor.dtype)
    kind = jax.dtypes.canonicalize_dtype(kind)
    return jax.ShapeDtypeStruct(tuple(tensor.shape), kind)
