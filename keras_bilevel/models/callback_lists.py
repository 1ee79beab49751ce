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
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    callbacks = keras.tree.flatten(callbacks or [])
    return [callback for callback in callbacks if hasattr(callback, "observe")]
