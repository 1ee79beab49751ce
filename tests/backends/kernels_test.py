"""Gradients of kernels under JAX, against those of `jax.vmap`."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
kernels = pytest.importorskip("keras_bilevel.engine.jax.kernels")

CONVOLUTIONS = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strided": {"padding": "SAME", "window_strides": (2, 3)},
    "dilated": {"padding": "SAME", "rhs_dilation": (2, 1)},
    "cut off": {"padding": [(-1, 2), (0, -2)]},
    "line": {"padding": "SAME", "rank": 1},
    "volume": {"padding": "SAME", "rank": 3},
    "large": {"padding": "SAME", "taps": 9},
    "grouped": {"padding": "SAME", "feature_group_count": 2},
    "depthwise": {"padding": "SAME", "feature_group_count": 4},
    "depthwise, strided": {
        "padding": "VALID",
        "feature_group_count": 4,
        "window_strides": (2, 1),
    },
}
NUM_SHARDS = 3


class NoScale:
    def down(self, gradient):
        return gradient.astype("float32")


def normal(*shape):
    size = np.random.default_rng(len(shape)).normal(size=shape)
    return jax.numpy.asarray(size, "float32")


def differentiated(function, variables, x):
    """Returns a function of the `shards` to all that `differentiate` gives."""

    def one(x):
        return kernels.differentiate(
            lambda point: function(point, x), variables, NoScale()
        )

    return jax.jit(jax.vmap(one))(x)


def by_vmap(function, variables, x):
    of_one = jax.grad(function, has_aux=True)
    return jax.jit(jax.vmap(of_one, in_axes=(None, 0)))(variables, x)


def convolution(rank=2, taps=3, **options):
    """Returns a loss, its kernel and inputs for three shards."""
    axes = "XYZ"[:rank]
    order = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    options = {"window_strides": (1,) * rank, **options}
    groups = options.get("feature_group_count", 1)

    def loss(point, x):
        y = jax.lax.conv_general_dilated(
            point[1] * x, point[0], dimension_numbers=order, **options
        )
        # A function that JAX compiles by itself, and one of its own rules.
        return jax.nn.relu(jax.jit(jax.numpy.sin)(y)).sum(), y

    x = normal(NUM_SHARDS, 2, *(9, 8, 7)[:rank], 4)
    kernel = normal(*[taps] * rank, 4 // groups, 8 if groups > 1 else 5)
    return loss, [kernel, x[0, 0]], x


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_taps_give_the_gradients_of_a_convolution(name):
    case = convolution(**CONVOLUTIONS[name])
    found, expected = differentiated(*case), by_vmap(*case)
    pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own_groups", [1, 4])
def test_taps_take_the_place_of_grouped_convolutions(own_groups):
    loss, variables, x = convolution(
        padding="SAME", feature_group_count=own_groups
    )

    def groups(way):
        text = jax.jit(lambda x: way(loss, variables, x)).lower(x).as_text()
        counts = text.split("group_count = ")[1:]
        return max(int(count.split()[0]) for count in counts)

    assert groups(by_vmap) == NUM_SHARDS * own_groups
    assert groups(differentiated) == own_groups


def dense(x, kernel):
    return jax.numpy.matmul(x, kernel)


def of_two_axes(x, kernel):
    return jax.numpy.einsum("ntab,abc->ntc", x, kernel)


def to_two_axes(x, kernel):
    return jax.numpy.einsum("na,abc->nbc", x, kernel)


def of_another_type(x, kernel):
    half = kernel.astype("bfloat16").astype("float32")
    return jax.jit(jax.numpy.matmul)(x, half)


PRODUCTS = {
    "rows": (dense, (2, 9), (9, 8)),
    "sequences": (dense, (2, 2, 30), (30, 20)),
    "of two axes": (of_two_axes, (2, 2, 5, 6), (5, 6, 20)),
    "to two axes": (to_two_axes, (2, 9), (9, 5, 2)),
    "of another type": (of_another_type, (2, 9), (9, 8)),
}


def loss_of(product):
    def loss(point, x):
        kernel, bias, factor = point
        y = jax.nn.relu(product(factor * x, kernel) + bias)
        return (y**2).mean(), y

    return loss


@pytest.mark.parametrize("name", list(PRODUCTS))
def test_factors_give_what_follows_from_whole_gradients(name):
    product, of_x, of_kernel = PRODUCTS[name]
    x = normal(NUM_SHARDS, *of_x)
    variables = [normal(*of_kernel), normal(of_kernel[-1]), normal(1)]
    case = loss_of(product), variables, x
    (found, y), (expected, of_vmap) = differentiated(*case), by_vmap(*case)
    np.testing.assert_allclose(y, of_vmap, rtol=1e-5)
    assert [type(g) for g in found] == [
        kernels.Factors,
        kernels.Whole,
        kernels.Whole,
    ]
    weights = normal(NUM_SHARDS)
    for ours, theirs, variable in zip(found, expected, variables):
        rows = np.float64(theirs).reshape((NUM_SHARDS, -1))
        # Halves round the gradient of the kernel that is of another type.
        close = {"rtol": 2e-2 if name == "of another type" else 1e-4}
        close["atol"] = close["rtol"] * np.abs(rows).max() ** 2
        for split in (1, NUM_SHARDS):
            upper = jax.tree.map(lambda t, split=split: t[:split], ours)
            np.testing.assert_allclose(
                ours.alignments(upper), rows @ rows[:split].sum(0), **close
            )
        np.testing.assert_allclose(ours.products(), rows @ rows.T, **close)
        np.testing.assert_allclose(
            jax.vmap(lambda one: one.squared_norm())(ours),
            (rows**2).sum(axis=1),
            **close,
        )
        total = ours.weighted_sum(weights)
        assert total.shape == variable.shape
        np.testing.assert_allclose(np.ravel(total), weights @ rows, **close)


def twice(x, kernel):
    return dense(dense(x, kernel), kernel)


def transposed(x, kernel):
    return dense(x, kernel.T)


def in_a_loop(x, kernel):
    return jax.lax.scan(lambda y, _: (dense(y, kernel), None), x, length=2)[0]


def penalised(x, kernel):
    return dense(x, kernel) + (kernel**2).sum()


WHOLE = {
    "used twice": (twice, (2, 9)),
    "transposed": (transposed, (2, 9)),
    "in a loop": (in_a_loop, (2, 9)),
    "in its own term": (penalised, (2, 9)),
    "many rows": (dense, (5, 9)),
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_other_uses_of_a_kernel_have_whole_gradients(name):
    product, of_x = WHOLE[name]
    variables = [normal(9, 9), normal(9), normal(1)]
    case = loss_of(product), variables, normal(NUM_SHARDS, *of_x)
    found, expected = differentiated(*case)[0], by_vmap(*case)[0]
    assert all(type(g) is kernels.Whole for g in found)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.tensor, theirs, rtol=1e-4, atol=1e-5)
