"""Shapes and types of results, from symbolic tensors."""

import keras


def spec_of_result(function, *arguments):
    """Returns what a function returns, with symbolic tensors.

    Args:
        function: Callable of structures of tensors.
        *arguments: Structures of tensors, some of them `keras.KerasTensor`.

    Returns:
        A structure of `keras.KerasTensor`.
    """
    return _Operation(function).compute_output_spec(*arguments)


class _Operation(keras.Operation):
    def __init__(self, function):
        super().__init__()
        self.call = function
