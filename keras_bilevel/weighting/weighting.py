"""What every weighting is: a unit, its statistics, and a rule."""


class Weighting:
    """Turns the alignment of the lower-level units into their weights.

    A weighting is pure maths: it never sees a tape, a replica or a model.
    `BilevelModel` computes, for every unit of the lower level, the statistics
    that the weighting names, calls the weighting, and follows the weighted sum
    of the units' gradients.

    To write a new one, subclass, set the class attributes below and implement
    `call`.

    Attributes:
        unit: `"shard"` or `"example"`: what carries a weight.
        statistics: Tuple of the names that `call` reads, out of
            `"alignment"` (inner product of the unit's gradient with the
            upper-level gradient), `"norm"` (squared Euclidean norm of the
            unit's gradient), `"gram"` (inner products among the units'
            gradients; keeps every unit's gradient in memory) and `"loss"`.
            Shards know all of them; examples know alignment and loss.
            Without `"gram"`, `call` must be elementwise over the units, so
            that each gradient can be folded into a running sum at once.
        l1_normalize: Boolean, whether the weights of a group are divided by
            the sum of their absolute values.
        per_layer: Boolean, one group of weights per layer instead of one for
            the whole network. Shards only.
        same_dropout: Boolean, one dropout mask for all shards. Shards only.
        num_shards: Integer, shards per super-batch and replica. Shards only.
        num_validation_shards: Integer, how many of them, the first ones, make
            the upper level. Shards only.
        num_examples: Integer, ids are in `[0, num_examples)`, or `None` where
            no example is remembered. Examples only.
        update_weights_first: Boolean, whether `recall` is asked after `update`
            instead of before. Examples only.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class PositiveAlignment(kb.weighting.Weighting):
        unit = "example"
        statistics = ("alignment",)
        l1_normalize = True

        def call(self, alignment):
            return keras.ops.relu(alignment)
    ```
    """

    unit = None
    statistics = ("alignment",)
    l1_normalize = False
    per_layer = False
    same_dropout = False
    num_shards = 8
    num_validation_shards = 1
    num_examples = None
    update_weights_first = False

    def call(self, **statistics):
        """Returns the weights before normalisation.

        Args:
            **statistics: One float tensor for each name in `statistics`, of
                shape `(groups, units)`, except `gram`, which is
                `(groups, units, units)`.

        Returns:
            Float tensor of shape `(groups, units)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(**statistics)`."
        )

    def recall(self, ids):
        """Returns remembered weights of the examples `ids`, if there are any.

        Args:
            ids: Integer tensor of shape `(units,)`.

        Returns:
            Float tensor of shape `(1, units)`, or `None` (the default) where
            the weights depend on this step's statistics alone.
        """
        return None

    def update(self, ids, statistics, learning_rate):
        """Updates what the weighting remembers of the examples `ids`.

        Args:
            ids: Integer tensor of shape `(units,)`, or `None`; the units of
                all replicas.
            statistics: Dict of a tensor of shape `(1, units)` for each name in
                `statistics`, 0 where a unit's loss or gradient is not finite.
            learning_rate: Scalar, the optimizer's rate of this step.
        """

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
