"""Base classes of weightings, which turn statistics into weights."""


class Weighting:
    """Turns the alignment of the lower-level units into their weights.

    A weighting is pure maths: it never sees a tape, a replica or a model.
    For every unit of the lower level, `BilevelModel` computes the statistics
    that the weighting names. It then calls the weighting, and gives the
    weighted sum of the units' gradients to the optimizer.

    To write a new one, subclass `ShardWeighting` or `ExampleWeighting`,
    depending on the unit that is weighed, and implement `call`.

    Attributes:
        statistics: Tuple of the names that `call` reads. All units have an
            `"alignment"` (inner product of the unit's gradient with the
            upper-level gradient) and a `"loss"`.
        l1_normalize: Boolean, whether the weights of a group are divided by
            the sum of their absolute values. Defaults to `False`.

    Example:

    ```python
    class Sign(kb.weighting.ShardWeighting):
        l1_normalize = True

        def call(self, alignment):
            return keras.ops.sign(alignment)
    ```
    """

    statistics = ("alignment",)
    l1_normalize = False

    def call(self, **statistics):
        """Returns the weights before normalisation.

        Args:
            **statistics: One float tensor for each name in `statistics`, of
                shape `(groups, units)`, except `loss`, which is `(1, units)`,
                and `gram`, which is `(groups, units, units)`.

        Returns:
            Float tensor of shape `(groups, units)`, or `(1, units)` if all
            groups have the same weights.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(**statistics)`."
        )

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class ShardWeighting(Weighting):
    """A weighting of shards, some of which judge the others.

    Without `"gram"` among its statistics, `call` must be elementwise over the
    shards, so that each gradient can be added to a running sum immediately.

    Attributes:
        statistics: Further names are `"norm"` (squared Euclidean norm of a
            shard's gradient) and `"gram"` (inner products among the shards'
            gradients; keeps every shard's gradient in memory).
        num_shards: Integer, shards per super-batch and replica. Defaults to
            `8`.
        num_validation_shards: Integer, how many of them, the first ones, make
            the upper level. Defaults to `1`.
        per_layer: Boolean, one group of weights per layer instead of one for
            the whole network. Defaults to `False`.
        same_dropout: Boolean, one dropout mask for all shards. Defaults to
            `False`.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class Cosine(kb.weighting.ShardWeighting):
        statistics = ("alignment", "norm")
        l1_normalize = True

        def call(self, alignment, norm):
            return keras.ops.divide_no_nan(alignment, keras.ops.sqrt(norm))
    ```
    """

    num_shards = 8
    num_validation_shards = 1
    per_layer = False
    same_dropout = False


class ExampleWeighting(Weighting):
    """A weighting of source examples, which a target batch judges.

    Attributes:
        num_examples: Integer, ids are in `[0, num_examples)`, or `None` if no
            example is remembered. Defaults to `None`.
        update_weights_first: Boolean, whether `recall` is asked after `update`
            instead of before. Defaults to `False`.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class PositiveAlignment(kb.weighting.ExampleWeighting):
        l1_normalize = True

        def call(self, alignment):
            return keras.ops.relu(alignment)
    ```
    """

    num_examples = None
    update_weights_first = False

    def prepare(self, num_examples):
        """Makes what has to be remembered; called by `fit`, before any step.

        Args:
            num_examples: Integer, the number of source examples, or `None`
                where the dataset does not tell.
        """

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

    def has_update(self):
        """Returns whether `update` does something.

        If not, nothing is gathered from other replicas for it.
        """
        return type(self).update is not ExampleWeighting.update
