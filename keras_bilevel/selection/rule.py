"""The base class of rules: losses and R(t) in, a mask per network out."""


class Rule:
    """Says which examples of a batch each network learns from.

    To write a new one, subclass and implement `call`, with `keras.ops` and
    static shapes: masks, not indices.

    Attributes:
        num_networks: Integer, how many networks the rule needs; `None` where
            any number will do. Defaults to `2`.
        needs: Tuple of names, the further keyword arguments of `call`. They
            belong to the same examples as the losses. `"labels"`: y, as it is
            in the batch. `"classes"`: the class of each example, an integer
            tensor of shape `(batch_size,)`, from labels that are integers or
            one-hot; others are an error. Vectors in a dataset are taken as
            one-hot. `"predictions"`: a list of what each network predicts.
            Defaults to `()`.
        remembers: Boolean, whether the rule has a memory of the examples, and
            with it a term of the loss. Then it needs `num_networks = 1` and
            the methods `prepare`, `forget`, `remember` and `penalty`.
            Defaults to `False`.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class Agreement(kb.selection.Rule):
        def call(self, losses, share, disagree, epoch):
            losses = keras.ops.where(disagree, float("inf"), losses)
            return kb.selection.smallest(losses, share)
    ```
    """

    num_networks = 2
    needs = ()
    remembers = False

    def call(self, losses, share, disagree, epoch, **needed):
        """Selects examples.

        Args:
            losses: Float tensor of shape `(num_networks, batch_size)`, the
                loss of each example under each network. Infinity where an
                example must not be selected: it has sample weight 0, or its
                loss is not finite.
            share: Scalar tensor, R(t), the share of the batch to keep.
            disagree: Boolean tensor of shape `(batch_size,)`, where the
                networks do not all predict the same class.
            epoch: Scalar integer tensor, t.
            **needed: One for each name in `needs`. A rule without needs can
                leave them out of its signature.

        Returns:
            Boolean tensor of shape `(num_networks, batch_size)`, the examples
            that each network learns from.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(losses, share, "
            "disagree, epoch)`."
        )

    def prepare(self, num_examples, num_classes):
        """Makes the memory, unless it is there.

        Args:
            num_examples: Integer, or `None` where the data do not tell it.
            num_classes: Integer.
        """

    def forget(self):
        """Empties the memory, if it is there."""

    def remember(self, ids, probabilities, usable):
        """Updates the memory, alike on every replica.

        Args:
            ids: Integer tensor of shape `(batch_size,)`, of all replicas.
            probabilities: Float tensor of shape `(batch_size, num_classes)`.
            usable: Boolean tensor of shape `(batch_size,)`, `False` where the
                data were not finite or the example does not count.
        """

    def penalty(self, ids, probabilities):
        """Returns a term of the loss, of the shape of `ids`.

        Args:
            ids: Integer tensor of shape `(batch_size,)`.
            probabilities: Float tensor of shape `(batch_size, num_classes)`,
                of which the gradient is taken.
        """

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
