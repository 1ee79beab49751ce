"""The state of a step as values, from which JAX can transform functions.

Keras reads and writes its variables in a `keras.StatelessScope` while a step is
traced. A function that is to be differentiated or vectorised runs in a scope of
its own, which begins with the values of the scope around it. It returns what it
has updated, and the scope around it takes that over.
"""

import collections

import keras

from keras_bilevel import keras_private


class Scope(keras.StatelessScope):
    """A `keras.StatelessScope` that counts what is read and updated.

    Args:
        values: Dict from the ids of variables to their values.

    Attributes:
        state_mapping: Dict from the ids of variables to values, those now.
        reads: Counter of ids, how often each variable was read.
        updates: Counter of ids, how often each variable was written.
        updated: Dict of the variables that were written, by their ids. Those
            that are trained are not among them: as in Keras, what a layer
            writes there is gone after its call.
    """

    def __init__(self, values):
        super().__init__(collect_losses=True, initialize_variables=False)
        self.state_mapping = dict(values)
        self.reads = collections.Counter()
        self.updates = collections.Counter()
        self.updated = {}

    def get_current_value(self, variable):
        self.reads[id(variable)] += 1
        return super().get_current_value(variable)

    def add_update(self, update):
        variable, _ = update
        is_trained = variable.trainable and id(variable) in self.state_mapping
        super().add_update(update)
        if not is_trained:
            self.updates[id(variable)] += 1
            self.updated[id(variable)] = variable

    def changes(self):
        """Returns a dict from the ids of updated variables to their values."""
        return {key: self.state_mapping[key] for key in self.updated}


def check_known(updated, known):
    """Raises `RuntimeError` for variables that a step cannot hand on.

    Args:
        updated: Dict from ids to variables, those that a step has written.
        known: Container of the ids of the model's variables.
    """
    unknown = [v.path for key, v in updated.items() if key not in known]
    if unknown:
        raise RuntimeError(
            "Expected a step that updates what belongs to the model alone. "
            f"Received: a step that updates {unknown}. Make these "
            "variables attributes of a layer, or of an observer."
        )


def values():
    """Returns a dict from ids to values, those of the open scope."""
    scope = keras_private.current_scope()
    return {} if scope is None else dict(scope.state_mapping)


def copied():
    """Returns a `Scope` that begins as the open one, with its losses too."""
    copy = Scope(values())
    scope = keras_private.current_scope()
    if scope is not None:
        copy.losses = list(scope.losses)
    return copy


def keep(scope):
    """Takes over what a function has updated in a scope of its own.

    Args:
        scope: A `Scope` that is closed, of which the values are valid here.
    """
    for variable in scope.updated.values():
        variable.assign(scope.state_mapping[id(variable)])
