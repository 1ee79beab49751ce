"""`fit` and the training step of all methods."""

import warnings

import keras

from keras_bilevel import engine
from keras_bilevel.checks import check_integer
from keras_bilevel.checks import wrong
from keras_bilevel.data import class_weights
from keras_bilevel.data.arrays import are_arrays
from keras_bilevel.data.arrays import read_examples
from keras_bilevel.data.arrays import read_validation
from keras_bilevel.data.arrays import split_off_tail
from keras_bilevel.data.batches import check_labels
from keras_bilevel.data.batches import is_dataset
from keras_bilevel.data.batches import rank_of
from keras_bilevel.data.batches import spec_of
from keras_bilevel.data.batches import tensors
from keras_bilevel.data.epochs import are_passes
from keras_bilevel.data.epochs import epoch_counters
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.epochs import known_size
from keras_bilevel.data.epochs import origins
from keras_bilevel.models.wrapper import check_trains
from keras_bilevel.schemes.scheme import OutputTrackers

_OTHER_SEED = (
    "Pass `seed` to what made the dataset, or call "
    "`keras.utils.set_random_seed` on all workers before."
)
_OTHER_EPOCH = (
    "A worker resumed from an older backup: remove the backups of all workers "
    "that are ahead of it, or of all."
)


class Fitting(engine.StepOfBackend):
    """Gives a `keras.Model` the training of this package; a mixin.

    - From arrays, `fit` builds batches whose ids are the row numbers.
    - Datasets of `kb.data` are told the epoch, so that a resumed run sees the
      same order as an uninterrupted one.
    - Callbacks that are observers take part in the training step. The state of
      this package's callbacks, and that of dropout, is saved with the weights.
    - Several workers train on the same order of the data, and begin with the
      same epoch.

    Attributes:
        scheme: The `Scheme`, which a subclass makes: how batches are made and
            checked, and what a step does.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        engine.check_strategy(self)
        self._observers = []
        self._keepers = []
        self._ranks = None

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains the model; the arguments are those of `keras.Model.fit`.

        From arrays, `fit` builds the batches. `batch_size` is the number of
        examples of a step on all replicas. Examples that do not fill a batch
        are left over; they differ from epoch to epoch. A dataset has to yield
        such batches itself.

        Arrays are all that Keras takes, lists of numbers, and pandas objects
        with columns of several types. Sparse and ragged data are not supported.
        `class_weight` is multiplied by `sample_weight`. If an example has
        several tokens or pixels with a label each, it has as many weights.

        Returns:
            A `keras.callbacks.History`.
        """
        check_trains(self)
        self.scheme.check_epochs(epochs)
        validation_data = read_validation(validation_data)
        watching = []
        if are_arrays(x):
            part = read_examples(x, y, sample_weight)
            check_labels(part)
            num_examples = len(keras.tree.flatten(part[0])[0])
            # All rows, before a validation split takes some away.
            _check_observers(_callback_list(callbacks), num_examples)
            if validation_split and validation_data is None:
                part, validation_data = split_off_tail(part, validation_split)
            batch_size = 32 if batch_size is None else batch_size
            check_integer("batch_size", batch_size, 1)
            validation_batch_size = validation_batch_size or batch_size
            x = self.scheme.batches(
                part,
                batch_size,
                shuffle=shuffle,
                steps_per_epoch=steps_per_epoch,
                seed=engine.of_workers(fixed_seed(None), self)[0],
            )
            if class_weight is None:
                watching = self.scheme.watching(part, batch_size)
            y = batch_size = sample_weight = None
            validation_split, steps_per_epoch = 0.0, None
        x = self.scheme.check(x)
        is_known = is_dataset(x)
        if is_known:
            x = self._prepare(x, class_weight)
            class_weight = None
        callbacks = self._with_own(callbacks, watching, x, steps_per_epoch)
        if is_known and engine.has_workers(self):
            engine.check_validation(validation_data)
            x = engine.part_of_worker(x)
        try:
            return super().fit(
                x=x,
                y=y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle and isinstance(x, keras.utils.PyDataset),
                class_weight=class_weight,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )
        finally:
            # Weights that are loaded later leave callbacks alone.
            self._keepers = []

    def take_step(self, batch):
        """One step of any method: its gradient, then the optimizer's step."""
        parts = self.scheme.parse(batch)
        self.scheme.build(parts)
        self._build_optimizer(parts)
        scale = engine.LossScale(self.optimizer)
        trackers = OutputTrackers(self)
        step = self.scheme.step(parts, scale)
        engine.apply(self, step, scale)
        for observer in self._observers:
            observer.observe(step)
        trackers.update(step)
        return self.scheme.log(step)

    def _build_optimizer(self, parts):
        """Builds the optimizer, once all variables are there."""
        check_trains(self)
        if self.optimizer.built:
            return
        if self.run_eagerly:
            # Some layers build their sublayers only in a real call.
            for network, batch in parts:
                network(batch.x, training=False)
        self.optimizer.build(self.trainable_variables)

    def kept_variables(self):
        """Returns what a step updates and Keras does not know of, a list."""
        observed = [v for o in self._observers for v in o.variables]
        return [*self.scheme.variables, *observed]

    def reset_metrics(self):
        super().reset_metrics()
        self.scheme.reset()

    def logs_of_epoch(self, logs):
        if "test_step" in self._own and self.scheme.num_replicas == 1:
            # The network's own `test_step` may log more than its metrics.
            return logs
        # Keras averages the logs of a step over replicas, even if they are
        # sums. Metrics reduce them correctly, but Keras only asks them if it
        # knows all of them.
        results = {**self.get_metrics_result(), **self.scheme.results()}
        if isinstance(logs, dict) and set(logs) == set(results):
            return results
        return super().logs_of_epoch(logs)

    def _prepare(self, dataset, class_weight):
        """Checks a dataset, and prepares its batches for training."""
        check_labels(spec_of(dataset))
        if class_weight is not None:
            dataset = class_weights.weighted(dataset, class_weight)
        spec = spec_of(dataset)
        ranks = [rank_of(leaf.shape) for leaf in tensors(spec)]
        if self._ranks not in (None, ranks):
            # TensorFlow would relax the shapes of both to unknown in one trace.
            self.train_function = None
        self._ranks = ranks
        self.build_before_trace(spec)
        for origin in origins(dataset):
            self._check_agree("seed of the dataset", origin.seed, _OTHER_SEED)
        return dataset

    def _check_agree(self, name, value, mend):
        """Raises `ValueError` if an integer differs between workers."""
        values = engine.of_workers(value, self)
        if len(set(values)) > 1:
            raise ValueError(
                f"Expected the same {name} on all workers. Received: {values}. "
                f"{mend}"
            )

    def _with_own(self, callbacks, watching, dataset, steps_per_epoch):
        """Returns the user's callbacks, and those that `fit` itself needs.

        Callbacks with `observe` take part in the step. Callbacks with
        `get_state` take part in saving and loading.
        """
        users = _callback_list(callbacks)
        size = known_size(dataset)
        if size is not None:
            _check_observers(users, size)
        tell = self._epoch_teller(dataset, steps_per_epoch)
        own = [*watching, tell, *self.scheme.callbacks(dataset)]
        self._keepers = [c for c in users + own if hasattr(c, "get_state")]
        observers = [c for c in users + own if hasattr(c, "observe")]
        if observers != self._observers:
            self._observers = observers
            self.train_function = None
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            return [*users, *own]
        for callback in own:
            callback.set_model(callbacks.model)
            callback.set_params(callbacks.params)
            callbacks.callbacks.append(callback)
        return callbacks

    def _epoch_teller(self, dataset, steps_per_epoch):
        """Returns a callback that passes the epoch to scheme and datasets.

        With `steps_per_epoch`, Keras keeps one iterator over all epochs. Then a
        dataset is told the first epoch alone: it has begun the next one ahead
        of time.
        """
        counters = epoch_counters(dataset)
        goes_on = steps_per_epoch is not None
        is_first = True

        def begin(epoch, logs):
            nonlocal is_first
            self._check_agree("epoch", epoch, _OTHER_EPOCH)
            self.scheme.begin_epoch(epoch)
            for counter in counters if is_first or not goes_on else []:
                counter.set(epoch)
            if goes_on and is_first and epoch > 0:
                _warn_of_order(dataset, steps_per_epoch)
            is_first = False

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)

    def save_own_variables(self, store):
        # A resumed run continues with the same dropout masks and state of
        # callbacks. Keras itself does not save the state of seed generators.
        for i, variable in enumerate(engine.seed_states(self)):
            store[f"seed_{i}"] = variable.numpy()
        for i, keeper in enumerate(self._keepers):
            for name, value in keeper.get_state().items():
                store[_key(i, keeper) + name] = value

    def load_own_variables(self, store):
        for i, variable in enumerate(engine.seed_states(self)):
            if f"seed_{i}" in store.keys():
                variable.assign(store[f"seed_{i}"])
        for i, keeper in enumerate(self._keepers):
            prefix = _key(i, keeper)
            keys = [k for k in store.keys() if k.startswith(f"callback_{i}_")]
            if not all(key.startswith(prefix) for key in keys):
                raise wrong(
                    "argument `callbacks`",
                    "those of the run that goes on, in their order",
                    f"`{type(keeper).__name__}` in the place of "
                    f"`{keys[0].split('_')[2]}`",
                    "Add new ones at the end, or remove the backup.",
                )
            if keys:
                keeper.set_state(
                    {key.removeprefix(prefix): store[key][...] for key in keys}
                )


def _warn_of_order(dataset, steps_per_epoch):
    """Warns where a later epoch does not begin with a pass over the data."""
    if not are_passes(dataset, steps_per_epoch):
        warnings.warn(
            f"Expected that steps_per_epoch={steps_per_epoch} is a pass over "
            "the dataset, since this training begins with a later epoch. "
            "Received: a dataset with passes of another, or of unknown, "
            "length. So it sees the data in another order than a training "
            "that began with the first. If it is made of arrays, pass "
            "`steps_per_epoch` to what made it, in place of `repeat()`.",
            stacklevel=2,
        )


def _key(place, keeper):
    """Returns how the names begin under which a callback's state is stored."""
    return f"callback_{place}_{type(keeper).__name__}_"


def _callback_list(callbacks):
    """Returns the callbacks of `fit`, one or several or a list, as a list."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return keras.tree.flatten(callbacks or [])


def _check_observers(callbacks, num_examples):
    for callback in callbacks:
        if hasattr(callback, "observe"):
            callback.check(num_examples)
