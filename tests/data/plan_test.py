import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_bilevel.data.super_batches import EpochPlan
from keras_bilevel.data.super_batches import Layout
from keras_bilevel.data.super_batches import deal
from keras_bilevel.data.super_batches import make_pools

few = settings(max_examples=25, deadline=None)


@st.composite
def layouts(draw, ratio=None):
    num_shards = draw(st.integers(2, 5))
    return Layout(
        num_shards,
        shard_size=draw(st.integers(1, 4)),
        num_validation_shards=draw(st.integers(1, num_shards - 1)),
        num_replicas=draw(st.integers(1, 3)),
        separate_validation=bool(ratio),
    )


def random_labels(seed, num_classes=4, size=400):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(num_classes, 3.0))
    return rng.choice(num_classes, size=size, p=shares)


def make_plan(
    labels, layout, ratio=0.0, rare="drop", shuffle=True, seed=0, steps=None
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pools = make_pools(labels, layout, ratio, rare, seed)
    return EpochPlan(pools, layout, shuffle, seed, steps), pools


def by_shard(rows, layout):
    """(steps, replicas, shards, shard_size)."""
    return rows.reshape(
        len(rows), layout.num_replicas, layout.num_shards, layout.shard_size
    )


def label_counts(labels, rows, layout):
    """(steps * replicas, shards, classes)."""
    shards = by_shard(rows, layout)
    classes = np.arange(labels.max() + 1)
    counts = (labels[shards][..., None] == classes).sum(axis=-2)
    return counts.reshape(len(rows), -1, len(classes))


@few
@given(seed=st.integers(0, 1000), layout=layouts())
def test_an_epoch_sees_each_example_once_but_for_the_leftovers(seed, layout):
    labels = random_labels(seed)
    plan, _ = make_plan(labels, layout, seed=seed)
    rows = plan(seed)
    assert len(np.unique(rows)) == rows.size
    # Left over: the rest of each class, and the rest of the tuples.
    num_tuples = (np.bincount(labels) // layout.tuple_size).sum()
    assert plan.steps == num_tuples // layout.shard_size
    assert rows.shape == (plan.steps, layout.batch_size)


@few
@given(
    seed=st.integers(0, 1000),
    layout=layouts(),
    shuffle=st.booleans(),
    rare=st.sampled_from(["repeat", "drop"]),
)
def test_all_shards_have_the_same_label_counts(seed, layout, shuffle, rare):
    labels = random_labels(seed)
    labels[:2] = 4  # A rare class.
    plan, _ = make_plan(labels, layout, shuffle=shuffle, rare=rare, seed=seed)
    counts = label_counts(labels, plan(1), layout)
    np.testing.assert_array_equal(counts, counts[:, :1] + 0 * counts)


def test_without_stratification_shards_differ():
    labels = random_labels(0)
    layout = Layout(4, 8)
    plan, _ = make_plan(np.zeros_like(labels), layout)
    counts = label_counts(labels, plan(0), layout)
    assert np.any(counts != counts[:, :1])


@few
@given(seed=st.integers(0, 1000), layout=layouts(), epoch=st.integers(0, 50))
def test_order_is_a_function_of_seed_and_epoch(seed, layout, epoch):
    labels = random_labels(0)
    plan, _ = make_plan(labels, layout, seed=seed)
    again, _ = make_plan(labels, layout, seed=seed)
    for earlier in range(3):
        plan(earlier)
    np.testing.assert_array_equal(plan(epoch), again(epoch))
    other, _ = make_plan(labels, layout, seed=seed + 1)
    assert np.any(plan(epoch) != plan(epoch + 1))
    assert np.any(plan(epoch) != other(epoch))


def test_other_examples_are_left_over_in_other_epochs():
    labels = np.repeat([0, 1, 2], 13)
    plan, _ = make_plan(labels, Layout(4, 2))
    seen = np.concatenate([plan(epoch).ravel() for epoch in range(30)])
    assert len(np.unique(seen)) == len(labels)
    # Every example gets into every shard at some time.
    rows = np.concatenate([plan(epoch) for epoch in range(200)])
    for shard in range(4):
        inside = by_shard(rows, Layout(4, 2))[:, :, shard]
        assert len(np.unique(inside)) == len(labels)


@few
@given(steps=st.integers(1, 40), epoch=st.integers(0, 5), layout=layouts())
def test_steps_per_epoch_cuts_an_endless_sequence(steps, epoch, layout):
    labels = random_labels(0)
    passes, _ = make_plan(labels, layout, seed=3)
    plan, _ = make_plan(labels, layout, seed=3, steps=steps)
    needed = (epoch + 1) * steps // passes.steps + 1
    endless = np.concatenate([passes(number) for number in range(needed)])
    expected = endless[epoch * steps : (epoch + 1) * steps]
    np.testing.assert_array_equal(plan(epoch), expected)


@few
@given(
    seed=st.integers(0, 1000),
    layout=layouts(ratio=0.2),
    ratio=st.sampled_from([0.05, 0.2, 0.5]),
)
def test_validation_pool_is_fixed_and_disjoint(seed, layout, ratio):
    labels = random_labels(seed)
    plan, pools = make_plan(labels, layout, ratio=ratio, seed=seed)
    validation = pools.validation.members
    training = pools.training.members
    assert not set(validation) & set(training)
    assert len(validation) + len(training) == len(labels)
    sizes = np.bincount(labels)
    assert np.all(np.abs(pools.validation.counts - ratio * sizes) <= 1)
    for epoch in range(3):
        shards = by_shard(plan(epoch), layout)
        held_out = shards[:, :, : layout.num_validation_shards]
        trained = shards[:, :, layout.num_validation_shards :]
        assert set(held_out.ravel()) <= set(validation)
        assert set(trained.ravel()) <= set(training)
        assert len(np.unique(trained)) == trained.size
    counts = label_counts(labels, plan(0), layout)
    np.testing.assert_array_equal(counts, counts[:, :1] + 0 * counts)


def test_validation_examples_are_used_evenly():
    labels = np.zeros(100, int)
    layout = Layout(3, 2, separate_validation=True)
    plan, pools = make_plan(labels, layout, ratio=0.1)
    held_out = by_shard(plan(0), layout)[:, :, 0]
    uses = np.bincount(held_out.ravel(), minlength=100)
    uses = uses[pools.validation.members]
    assert uses.max() - uses.min() <= 2  # One tuple may be left over.
    assert uses.min() >= 3


def test_rare_group_is_repeated_evenly():
    labels = np.array([0] * 16 + [1] * 3)
    plan, _ = make_plan(labels, Layout(8, 1), rare="repeat")
    uses = np.bincount(plan(0).ravel(), minlength=19)
    np.testing.assert_array_equal(uses[:16], 1)
    np.testing.assert_array_equal(np.sort(uses[16:]), [2, 3, 3])


def test_lone_example_serves_in_both_roles():
    labels = np.array([0] * 20 + [1])
    layout = Layout(2, 1, separate_validation=True)
    plan, _ = make_plan(labels, layout, ratio=0.5, rare="repeat")
    assert [20, 20] in plan(0).tolist()
    plan, _ = make_plan(labels, layout, ratio=0.5, rare="drop")
    assert 20 not in plan(0)


def test_without_shuffle_tuples_come_as_they_fill_up():
    labels = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    plan, _ = make_plan(labels, Layout(2, 1), shuffle=False)
    expected = [[1, 2], [0, 3], [5, 6], [4, 7]]
    np.testing.assert_array_equal(plan(0), expected)
    np.testing.assert_array_equal(plan(1), expected)


def test_deal_goes_round():
    members = np.array([5, 6, 7, 8])
    dealt = deal(members, np.array([3, 1]), np.array([4, 2]))
    np.testing.assert_array_equal(dealt, [5, 6, 7, 5, 8, 8])


def test_member_order_puts_each_replicas_validation_first():
    layout = Layout(3, 1, 1, num_replicas=2, separate_validation=True)
    # Validation members are 0 and 1, training members 2 to 5.
    np.testing.assert_array_equal(layout.member_order, [0, 2, 3, 1, 4, 5])


def test_rare_modes_warn_and_raise_error():
    labels = np.array([0] * 16 + [1] * 3 + [2])
    layout = Layout(8, 1)
    with pytest.warns(UserWarning, match=r"1 \(3\), 2 \(1\)"):
        make_pools(labels, layout, 0.0, "repeat", 0)
    with pytest.raises(ValueError, match=r"1 \(3\), 2 \(1\)"):
        make_pools(labels, layout, 0.0, "error", 0)
    make_pools(labels, layout, 0.0, "drop", 0)
