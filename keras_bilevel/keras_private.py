"""Every private name of Keras, TensorFlow and KerasTuner that is used here.

Each has a function or a class of its own. Comments say which public API would
replace it. All of them work with Keras 3.12 to 3.15, TensorFlow 2.18 to 2.21
and KerasTuner 1.4.8. `tests/keras_private_test.py` tests each of them by name.
No other module of the package uses a private name.
"""

import contextlib

import keras
from keras.src.backend import AutocastScope
from keras.src.backend import get_keras_mask
from keras.src.backend import get_stateless_scope
from keras.src.backend import set_keras_mask
from keras.src.trainers.compile_utils import CompileLoss
from keras.src.trainers.data_adapters.data_adapter import (
    DataAdapter as KerasDataAdapter,
)

# What Keras attaches to tensors: masks of time steps, and the logits of a
# softmax or sigmoid, which losses prefer to its output.
_COMPANIONS = ("_keras_mask", "_keras_logits")


# Layers and their state. A public, recursive `Layer.layers` would do.


def all_layers(network, include_self=True):
    """Returns a network's layers, nested ones too, each once."""
    return list(network._flatten_layers(include_self=include_self))


def own_trainable_variables(layer):
    """Returns the trainable variables of a layer without its sublayers'."""
    return layer._trainable_variables


def own_state_variables(layer):
    """Returns the other variables of a layer without its sublayers'."""
    return layer._non_trainable_variables


def seed_generators(layer):
    """Returns the `keras.random.SeedGenerator`s of a layer."""
    return layer._seed_generators


def structure_of(network, end):
    """Returns inputs or outputs of a network in the user's structure.

    The public `network.inputs` and `network.outputs` are flat.

    Args:
        network: `keras.Model` with inputs and outputs.
        end: `"inputs"` or `"outputs"`.
    """
    # A Sequential has one of each, and no structure.
    structure = getattr(network, f"_{end}_struct", None)
    return getattr(network, end)[0] if structure is None else structure


def autocast(layer):
    """Returns the context in which Keras runs the `call` of a layer."""
    if layer.compute_dtype == layer.variable_dtype:
        return contextlib.nullcontext()
    is_cast = layer.autocast and "float" in layer.compute_dtype
    return AutocastScope(layer.compute_dtype if is_cast else None)


# Tensors. A public getter of masks in `keras.ops` would do.


def mask_of(tensor):
    """Returns the mask that Keras has given a tensor, or `None`."""
    return get_keras_mask(tensor)


def set_mask(tensor, mask):
    set_keras_mask(tensor, mask)


def map_companions(function, tensor, result):
    """Maps the mask and logits of a tensor, and attaches them to a result."""
    for name in _COMPANIONS:
        if getattr(tensor, name, None) is not None:
            setattr(result, name, function(getattr(tensor, name)))
    return result


# Compiled losses. Two public ways would do: to ask a model for the losses of
# its outputs, and to give a loss weights of another rank.


class CompiledLosses(CompileLoss):
    """The compiled losses of a model, with our own losses and trackers.

    Keras still matches losses and outputs.

    Args:
        loss: As for `compile`.
        loss_weights: As for `compile`.
        output_names: Names of the model's outputs, or `None`.
        make_loss: Function from a `keras.losses.Loss` to another one.
        make_tracker: Function from a name to a `keras.metrics.Metric`.
    """

    def __init__(
        self, loss, loss_weights, output_names, make_loss, make_tracker
    ):
        super().__init__(loss, loss_weights, output_names=output_names)
        self._makers = make_loss, make_tracker

    def build(self, y_true, y_pred):
        super().build(y_true, y_pred)
        make_loss, make_tracker = self._makers
        self._flat_losses = [
            entry._replace(loss=make_loss(entry.loss))
            for entry in self._flat_losses
        ]
        self._metrics[:] = [make_tracker(m.name) for m in self._metrics]


def compiled_losses(model):
    """Returns the compiled losses of a model, or `None`."""
    return model._compile_loss


def loss_entries(compiled):
    """Returns the entries of compiled losses that are built.

    Each has a `path` in the predictions, a `loss`, its `loss_weights` and a
    `name`.
    """
    return compiled._flat_losses


def call_each_loss(compiled, functions, *arguments):
    """Calls functions in place of the losses, and tracks nothing.

    Args:
        compiled: What `compiled_losses` returned, built.
        functions: A function for each of the `loss_entries`.
        *arguments: Labels, predictions and sample weights.
    """
    reader = object.__new__(type(compiled))
    reader.__dict__.update(compiled.__dict__)
    reader._flat_losses = [
        entry._replace(loss=function)
        for entry, function in zip(compiled._flat_losses, functions)
    ]
    reader._metrics = [None] * len(functions)
    reader(*arguments)


def loss_options(loss):
    """Returns a dict of the arguments with which a loss calls its function."""
    return getattr(loss, "_fn_kwargs", {})


def set_compiled(model, losses=None, tracker=None):
    """Gives a compiled model other losses, and another tracker of its loss."""
    if losses is not None:
        model._compile_loss = losses
    # Bypasses the attribute tracking of Keras.
    object.__setattr__(model, "_loss_tracker", tracker)


def loss_tracker(model):
    """Returns the metric named `loss`."""
    return model._loss_tracker


def share_compiled(model, network):
    """Gives a network the losses, metrics and tracker of a compiled model."""
    network.compiled = True
    network.loss = model.loss
    for name in ("_compile_loss", "_compile_metrics", "_loss_tracker"):
        object.__setattr__(network, name, getattr(model, name))


# Steps of a trainer. Public hooks of this kind in `keras.Model` would do.


class TrainerHooks:
    """Gives private hooks of `keras.Model` public names; a mixin before it."""

    def build_on_first_batch(self, iterator, data_batch):
        """Builds model, losses and metrics before a step is traced."""
        raise NotImplementedError

    def logs_of_epoch(self, logs):
        """Returns the logs of an epoch, from the logs of its last step."""
        return super()._get_metrics_result_or_logs(logs)

    def _get_metrics_result_or_logs(self, logs):
        return self.logs_of_epoch(logs)


class TensorFlowHooks(TrainerHooks):
    """The hooks of Keras' trainer for TensorFlow."""

    def wrap_step(self, step):
        """Returns the function to run in place of a step of any kind."""
        return step

    def _make_function(self, step_function):
        return super()._make_function(self.wrap_step(step_function))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.build_on_first_batch(iterator, data_batch)


class JaxHooks(TrainerHooks):
    """The hooks of Keras' trainer for JAX."""

    def _symbolic_build(self, iterator=None, data_batch=None):
        self.build_on_first_batch(iterator, data_batch)


def has_strategy(model):
    """Returns whether a model was made under a strategy."""
    return model._distribute_strategy is not None


def build_symbolically(model, batch):
    """Builds model, losses and metrics for `(x, y, sample_weight)`."""
    keras.Model._symbolic_build(model, data_batch=batch)


def current_scope():
    """Returns the `keras.StatelessScope` that is open, or `None`."""
    return get_stateless_scope()


def given_losses(model):
    """Returns the losses of layers that Keras gives a model, a list.

    With JAX they are known only within the forward pass, so that Keras hands
    them on.
    """
    return model._losses_override


@contextlib.contextmanager
def giving_losses(model, losses):
    """Gives a model the losses of its layers within the context."""
    model._losses_override = losses
    try:
        yield
    finally:
        model._losses_override = []


def without_model(callback):
    """Returns the attributes of a callback, without its model."""
    return {**vars(callback), "_model": None}


class DataAdapter(KerasDataAdapter):
    """An iterable of batches of any structure, with a length, for `fit`.

    A `keras.utils.PyDataset` would do, if Keras took batches with ids from it.
    """

    @property
    def num_batches(self):
        try:
            return len(self)
        except TypeError:
            return None  # tf.data says so if it does not know.

    # Keras asks for them where it makes the batches itself.
    batch_size = None
    has_partial_batch = False
    partial_batch_size = None

    def get_numpy_iterator(self):
        return iter(self)

    def get_jax_iterator(self):
        return iter(self)


# tf.data and TensorFlow.


def inputs_of(dataset):
    """Returns the datasets that a dataset is made of.

    There is no public way from a dataset to its inputs.
    """
    inputs = getattr(dataset, "_inputs", None)
    return inputs() if callable(inputs) else []


def registered_gradient(operation):
    """Returns the gradient of an operation, `None` where it counts as zero.

    Raises:
        LookupError: If there is none.
    """
    return _gradient_registry().lookup(operation)


def unregister_gradient(operation):
    """Removes a gradient, so that `tf.RegisterGradient` can set another one."""
    del _gradient_registry()._registry[operation]


def _gradient_registry():
    # Imported here alone: with JAX, TensorFlow may be missing.
    from tensorflow.python.framework import ops

    return ops.gradient_registry


# KerasTuner writes files in place, and fails to read an incomplete one.


class OracleHooks:
    """Gives public names to an oracle's files; a mixin before `Oracle`."""

    def oracle_file(self):
        return self._get_oracle_fname()

    def trial_folder(self, trial_id):
        return self._get_trial_dir(trial_id)

    def save_trial(self, trial):
        """Writes a trial to its folder."""
        super()._save_trial(trial)

    def _save_trial(self, trial):
        self.save_trial(trial)
