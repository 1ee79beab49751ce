"""Deep Bilevel Learning (Jenni & Favaro, 2018)."""

import keras
from keras import ops

from keras_bilevel.checks import check_choice
from keras_bilevel.checks import check_positive
from keras_bilevel.checks import check_shards
from keras_bilevel.weighting.weighting import ShardWeighting


@keras.saving.register_keras_serializable("keras_bilevel")
class DeepBilevel(ShardWeighting):
    """Weighs each shard by how well it agrees with a held-out shard.

    The super-batch is cut into `num_shards` shards with identical label
    counts. The first `num_validation_shards` of them judge the others: with
    `g_v` the (summed) gradient of the validation shards and `g_i` that of
    training shard `i`,

    ```
    w_i = <g_v, g_i> / (|g_i|^2 / lambda_ + mu)      (Eq. 10)
    w_i = w_i / sum_j |w_j|                          (Eq. 10)
    g   = sum_i w_i g_i                              (Eq. 11)
    ```

    and the optimizer applies `g`. No clean labels are needed: what several
    shards have in common is learned, and what fits only one of them is not.
    Weights may be negative.

    Choosing a learning rate: along the directions in which gradients vary most,
    every `w_i g_i` follows `g_v`. So a step has the noise of the validation
    shards alone. A rate at which plain SGD is stable *with batches as large as
    the validation shards* is nearly always safe here (in eight of nine tested
    cases), and often three times that rate is. Use smaller rates with smaller
    shards.

    Args:
        num_shards: Integer, number of shards per super-batch and replica, at
            least 2. Defaults to `8`.
        num_validation_shards: Integer, how many of them judge the others;
            the first ones in the super-batch. Defaults to `1`, as in the
            paper.
        mu: Float, at least 0. Regularises the weights, so that shards with a
            vanishing gradient do not get large ones. Defaults to `0.01`.
        lambda_: Float, greater than 0. Trades alignment against the length of
            the step. Defaults to `1.0`.
        l1_normalize: Boolean. `False` is row (a) of Table 1. Defaults to
            `True`.
        per_layer: Boolean, weights for each layer on its own: row (b) of
            Table 1. Defaults to `False`.
        same_dropout: Boolean, one dropout mask for all shards, as in the
            paper's baseline. A mask per shard, row (d) of Table 1, is better in
            most cells and is the default. Defaults to `False`.
        solver: `"diagonal"` for Eq. 10, or `"exact"` for the linear system of
            Eq. 8, `(G / lambda_ + mu I) w = c` with the Gram matrix `G` of the
            training gradients and `c_i = <g_v, g_i>`. The exact solver keeps
            one gradient per shard in memory. Defaults to `"diagonal"`.

    Example:

    ```python
    model = kb.BilevelModel(net, weighting=kb.weighting.DeepBilevel(8))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=128)
    ```

    Reference:

    - [Jenni & Favaro, 2018](https://arxiv.org/abs/1809.01465)
    """

    def __init__(
        self,
        num_shards=8,
        num_validation_shards=1,
        mu=0.01,
        lambda_=1.0,
        l1_normalize=True,
        per_layer=False,
        same_dropout=False,
        solver="diagonal",
    ):
        check_shards(num_shards, num_validation_shards)
        check_positive("mu", mu, or_zero=True)
        check_positive("lambda_", lambda_)
        check_choice("solver", solver, ("diagonal", "exact"))
        self.num_shards = num_shards
        self.num_validation_shards = num_validation_shards
        self.mu = mu
        self.lambda_ = lambda_
        self.l1_normalize = l1_normalize
        self.per_layer = per_layer
        self.same_dropout = same_dropout
        self.solver = solver

    @property
    def statistics(self):
        if self.solver == "exact":
            return ("alignment", "gram")
        return ("alignment", "norm")

    def call(self, alignment, norm=None, gram=None):
        if self.solver == "exact":
            return self._solve(alignment, gram)
        # Eq. 10, before the weights are normalised.
        return ops.divide_no_nan(alignment, norm / self.lambda_ + self.mu)

    def _solve(self, alignment, gram):
        # G is singular if shards agree exactly, so mu = 0 needs a small ridge.
        ridge = self.mu + keras.config.epsilon() * ops.mean(
            ops.diagonal(gram, axis1=-2, axis2=-1), axis=-1
        )
        ridge = ops.where(ridge > 0, ridge, ops.ones_like(ridge))
        system = gram / self.lambda_ + ridge[:, None, None] * ops.eye(
            gram.shape[-1]
        )
        # An overflow must stay visible as NaN, but the solver cannot take it.
        is_finite = ops.all(ops.isfinite(system), axis=(-2, -1), keepdims=True)
        system = ops.where(is_finite, system, ops.eye(gram.shape[-1]))
        weights = ops.solve(system, alignment[..., None])  # Eq. 8
        return ops.where(is_finite, weights, float("nan"))[..., 0]

    def get_config(self):
        return {
            "num_shards": self.num_shards,
            "num_validation_shards": self.num_validation_shards,
            "mu": self.mu,
            "lambda_": self.lambda_,
            "l1_normalize": self.l1_normalize,
            "per_layer": self.per_layer,
            "same_dropout": self.same_dropout,
            "solver": self.solver,
        }
