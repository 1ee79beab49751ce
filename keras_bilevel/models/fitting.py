"""`fit` as it has to be for methods that look at single examples."""

import keras
import numpy as np

from keras_bilevel import data
from keras_bilevel import engine
from keras_bilevel.data import batches
from keras_bilevel.data import class_weights
from keras_bilevel.data.epochs import attached
from keras_bilevel.engine.trainer import MultiWorker
from keras_bilevel.models import arrays
from keras_bilevel.models import callback_lists

_OTHER_SEED = (
    "Pass `seed` to what made the dataset, or call "
    "`keras.utils.set_random_seed` on all workers before."
)
_OTHER_EPOCH = (
    "A worker resumed from an older backup: remove the backups of all workers "
    "that are ahead of it, or of all."
)


class Fitting(MultiWorker):
    """Gives a `keras.Model` batches with ids, and runs that resume.

    - From arrays, `fit` builds batches whose ids are the row numbers.
    - Datasets of `kb.data` are told the epoch, so that a resumed run sees the
      order of an uninterrupted one.
    - Observers among the callbacks take part in the training step. What the
      callbacks of this package keep, and the state of dropout, is saved with
      the weights.
    - Several workers train on one order of the data, from one epoch on.

    A subclass says how batches are made (`_batches`), what has to be right
    with a dataset (`_check_dataset`), and what else to do.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        engine.check_strategy(self.distribute_strategy)
        self._observers = []
        self._keepers = []
        self._ranks = None

    def _step_results(self):
        """Returns a dict of the metrics of training steps only."""
        return {}

    def logs_of_epoch(self, logs):
        count = self.distribute_strategy.num_replicas_in_sync
        if self._own("test_step") is not None and count == 1:
            # Its logs need not be those of its metrics.
            return logs
        # The logs of a step are averaged over replicas, whatever they mean;
        # metrics know how. Keras asks them only where it knows all of them.
        results = {**self.get_metrics_result(), **self._step_results()}
        if isinstance(logs, dict) and set(logs) == set(results):
            return results
        return super().logs_of_epoch(logs)

    def _data_seed(self):
        """Returns the seed of the order of arrays, one on all workers.

        It is drawn from NumPy's global generator, as that of a dataset is.
        """
        seed = np.random.randint(2**31 - 1)
        return engine.of_workers(seed, self.distribute_strategy)[0]

    def _batches(self, part, batch_size, shuffle, steps_per_epoch):
        """Returns the dataset of batches of `fit` on arrays.

        Args:
            part: Tuple `(x, y, sample_weight)`, the last may be `None`.
            batch_size: Integer.
            shuffle: Boolean.
            steps_per_epoch: Integer or `None`.
        """
        raise NotImplementedError

    def _watched(self, callbacks, part, batch_size):
        """Returns the callbacks and what watches this run on arrays."""
        return callbacks

    def _check_dataset(self, dataset):
        """Raises `ValueError` for data that do not suit the method."""

    def _check_epochs(self, epochs):
        """Raises `ValueError` for a number of epochs that does not suit."""

    def _guarded(self, dataset):
        """Returns a dataset that fails on wrong batches, before any device."""
        return dataset

    def _begin_epoch(self, epoch):
        """Takes note of the epoch that is about to begin."""

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

        From arrays, `fit` builds the batches by itself: `batch_size` is the
        number of examples of a step on all replicas, and fewer than that are
        left over, others each epoch. A dataset has to yield such batches.

        Arrays are all that Keras takes, lists of numbers and pandas objects
        with columns of several types, but nothing sparse or ragged. With
        `class_weight`, weights of classes and of examples are multiplied;
        labels of several tokens or pixels make as many weights.

        Returns:
            A `keras.callbacks.History`.
        """
        if not self.compiled:
            raise ValueError("You must call `compile()` before `fit()`.")
        self._check_networks_train()
        self._check_epochs(epochs)
        validation_data = arrays.read_validation(validation_data)
        if arrays.are_arrays(x):
            part = arrays.read_examples(x, y, sample_weight)
            batches.check_labels(part)
            self._check_observers(callbacks, part[0])
            if validation_split and validation_data is None:
                part, validation_data = arrays.split_off_tail(
                    part, validation_split
                )
            batch_size = batch_size or 32
            validation_batch_size = validation_batch_size or batch_size
            x = self._batches(part, batch_size, shuffle, steps_per_epoch)
            if class_weight is None:
                callbacks = self._watched(callbacks, part, batch_size)
            y = batch_size = sample_weight = None
            validation_split, steps_per_epoch = 0.0, None
        self._check_dataset(x)
        if batches.is_dataset(x):
            batches.check_labels(x.element_spec)
            if class_weight is not None:
                x = class_weights.weighted(x, class_weight)
                class_weight = None
            self._trace_anew_for(batches.ranks(x))
            self._build_before_trace(x.element_spec)
        x = self._for_workers(self._guarded(x))
        callbacks = self._with_epochs(callbacks, x)
        self._set_observers(callbacks)
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

    def _trace_anew_for(self, ranks):
        """Forgets the traced step where data have another number of axes.

        TensorFlow would make one step for both, of unknown shapes.
        """
        if self._ranks not in (None, ranks):
            self.train_function = None
        self._ranks = ranks

    def _for_workers(self, dataset):
        """Returns a dataset of which each worker takes its part of a batch."""
        strategy = self.distribute_strategy
        if not (batches.is_dataset(dataset) and engine.has_workers(strategy)):
            return dataset
        for seed in attached(dataset, "order_seed"):
            self._check_agree("seed of the dataset", seed, _OTHER_SEED)
        return batches.sharded_by_data(dataset)

    def _check_agree(self, name, value, mend):
        """Raises `ValueError` where workers differ in an integer."""
        values = engine.of_workers(value, self.distribute_strategy)
        if len(set(values)) > 1:
            raise ValueError(
                f"Expected the same {name} on all workers. Received: {values}. "
                f"{mend}"
            )

    def _with_epochs(self, callbacks, dataset):
        """Adds a callback that tells all who need it which epoch it is."""
        counters = data.epoch_counters(dataset)

        def begin(epoch, logs):
            self._check_agree("epoch", epoch, _OTHER_EPOCH)
            self._begin_epoch(epoch)
            for counter in counters:
                counter.set(epoch)

        tell = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
        return callback_lists.appended(callbacks, tell)

    def _check_observers(self, callbacks, x):
        num_examples = len(keras.tree.flatten(x)[0])
        for observer in callback_lists.observers(callbacks):
            observer.check(num_examples)

    def _set_observers(self, callbacks):
        """Lets callbacks that observe steps take part in `train_step`.

        Those that keep something take part in saving and loading.
        """
        self._keepers = callback_lists.keepers(callbacks)
        observers = callback_lists.observers(callbacks)
        if observers != self._observers:
            self._observers = observers
            self.train_function = None

    def save_own_variables(self, store):
        # A resumed run goes on with the dropout masks and with what callbacks
        # have seen. Keras itself does not save the states of seeds.
        for i, variable in enumerate(engine.seed_states(self)):
            store[f"seed_{i}"] = variable.numpy()
        for i, keeper in enumerate(self._keepers):
            for name, value in keeper.get_state().items():
                store[f"callback_{i}_{name}"] = value

    def load_own_variables(self, store):
        for i, variable in enumerate(engine.seed_states(self)):
            if f"seed_{i}" in store.keys():
                variable.assign(store[f"seed_{i}"])
        for i, keeper in enumerate(self._keepers):
            prefix = f"callback_{i}_"
            state = {
                key.removeprefix(prefix): store[key][...]
                for key in store.keys()
                if key.startswith(prefix)
            }
            if state:
                keeper.set_state(state)
