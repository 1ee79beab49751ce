"""Plain batches with ids."""

import numpy as np
import pytest

import keras_bilevel as kb

X = np.arange(20.0)[:, None]
Y = np.arange(20) % 3


def epochs_of(dataset, count=2):
    return [list(dataset.as_numpy_iterator()) for _ in range(count)]


def test_ids_are_row_numbers_and_no_example_comes_twice():
    for epoch in epochs_of(kb.data.shuffled_batches((X, Y), 6, seed=0)):
        ids = np.concatenate([ids for *_, ids in epoch])
        assert len(epoch) == 3
        assert len(set(ids)) == 18
        for x, y, weight, ids in epoch:
            np.testing.assert_array_equal(x, X[ids])
            np.testing.assert_array_equal(y, Y[ids])
            np.testing.assert_array_equal(weight, 1.0)


def test_order_depends_on_seed_and_epoch_alone():
    first, second = epochs_of(kb.data.shuffled_batches((X, Y), 6, seed=5))
    again = kb.data.shuffled_batches((X, Y), 6, seed=5)
    for counter in kb.data.epoch_counters(again):
        counter.set(1)
    (resumed,) = epochs_of(again, 1)
    ids = [[batch[3].tolist() for batch in e] for e in (first, second, resumed)]
    assert ids[0] != ids[1] == ids[2]


def test_without_shuffling_rows_stay_in_order():
    dataset = kb.data.shuffled_batches((X, Y, Y + 1.0), 5, shuffle=False)
    *_, weight, ids = next(iter(dataset))
    np.testing.assert_array_equal(ids, np.arange(5))
    np.testing.assert_array_equal(weight, Y[:5] + 1.0)


def test_steps_per_epoch_goes_on_through_the_data():
    dataset = kb.data.shuffled_batches(
        (X, Y), 5, shuffle=False, steps_per_epoch=3
    )
    first, second = epochs_of(dataset)
    assert [batch[3][0] for batch in first + second] == [0, 5, 10, 15, 0, 5]


@pytest.mark.parametrize("size", [0, 21, 2.5])
def test_wrong_batch_size_is_an_error(size):
    with pytest.raises(ValueError, match="`batch_size`"):
        kb.data.shuffled_batches((X, Y), size)


def test_lengths_that_differ_are_an_error():
    with pytest.raises(ValueError, match="same length"):
        kb.data.shuffled_batches((X, Y[:5]), 2)
