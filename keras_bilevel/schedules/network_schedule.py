"""Schedules from a general function approximator."""

from keras import ops

from keras_bilevel.schedules.checks import read_integer
from keras_bilevel.schedules.checks import read_numbers
from keras_bilevel.schedules.hyperparameters import PREFIX
from keras_bilevel.schedules.hyperparameters import ask
from keras_bilevel.schedules.schedule import Schedule


class NetworkSchedule(Schedule):
    """A sum over hidden units of t / T, shifted so that R(0) = 1.

    ```
    R(t) = 1 + n(t / T) - n(0)
    ```

    A subclass implements `network`, n, and lists in `ranges` what numbers a
    hidden unit has: by their (plural) names the arguments of `hp.Float`.
    """

    ranges = {}

    def __init__(self, epochs, **units):
        self.epochs = read_integer("epochs", epochs, 1)
        self.units = {k: read_numbers(k, v) for k, v in units.items()}
        shapes = {k: v.shape for k, v in self.units.items()}
        first = next(iter(shapes.values()))
        if len(first) != 1 or first[0] == 0 or len(set(shapes.values())) > 1:
            names = ", ".join(f"`{name}`" for name in shapes)
            raise ValueError(
                f"Invalid values for arguments {names}. Expected the same "
                "shape (num_units,) for each, with at least one unit. "
                f"Received: shapes {shapes}"
            )

    def share(self, t):
        units = {
            name: ops.convert_to_tensor(values, "float32")
            for name, values in self.units.items()
        }
        u = ops.expand_dims(t / self.epochs, -1)
        start = self.network(ops.zeros_like(u), **units)
        return 1.0 + ops.sum(self.network(u, **units) - start, axis=-1)

    def network(self, u, **units):
        """Returns what each unit adds.

        Args:
            u: Float32 tensor of shape `(d0, .. dN, 1)`, t / T.
            **units: Float32 tensors of shape `(num_units,)`.

        Returns:
            Float32 tensor of shape `(d0, .. dN, num_units)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `network(u, **units)`."
        )

    @classmethod
    def from_hyperparameters(cls, hp, epochs, prefix=PREFIX, num_units=5):
        """Returns the schedule of a trial.

        Registers the numbers of every unit, such as `weights_0`, in the
        ranges that the class documents.

        Args:
            hp: `keras_tuner.HyperParameters`.
            epochs: Integer, the number of epochs of a trial.
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.
            num_units: Integer. Defaults to `5`.
        """
        num_units = read_integer("num_units", num_units, 1)
        units = {}
        for name, options in cls.ranges.items():
            names = [f"{prefix}{name}_{i}" for i in range(num_units)]
            units[name] = ask(hp, names, **options)
        return cls(epochs=epochs, **units)

    def to_hyperparameters(self, prefix=PREFIX):
        """Returns this schedule as a search would hold it.

        Args:
            prefix: String, what the names begin with. Defaults to
                `"schedule_"`.

        Returns:
            Dict from the names of hyperparameters to their values.
        """
        return {
            f"{prefix}{name}_{i}": value
            for name, values in self.units.items()
            for i, value in enumerate(values.tolist())
        }

    def get_config(self):
        units = {name: values.tolist() for name, values in self.units.items()}
        return units | {"epochs": self.epochs}
