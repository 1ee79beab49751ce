"""The callbacks of `fit`: a list, one callback, a `CallbackList` or nothing."""

import keras


def appended(callbacks, callback):
    """Returns the user's callbacks with one of ours behind them."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callback.set_model(callbacks.model)
        callback.set_params(callbacks.params)
        callbacks.callbacks.append(callback)
        return callbacks
    return [*keras.tree.flatten(callbacks or []), callback]


def observers(callbacks):
    """Returns the callbacks that take part in the training step."""
    return [c for c in _flat(callbacks) if hasattr(c, "observe")]


def keepers(callbacks):
    """Returns the callbacks that keep what is saved with the weights."""
    return [c for c in _flat(callbacks) if hasattr(c, "get_state")]


def _flat(callbacks):
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return keras.tree.flatten(callbacks or [])
