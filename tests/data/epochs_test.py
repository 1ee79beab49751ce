import numpy as np
import tensorflow as tf

from keras_bilevel.data import EpochCounter
from keras_bilevel.data import epoch_counters
from keras_bilevel.data import stratified_batches


def make_dataset(seed=0):
    x = np.arange(64)
    return stratified_batches((x, x % 2), 4, 2, seed=seed)


def read(dataset):
    return [batch[0].numpy().tolist() for batch in dataset]


def test_counter_advances_and_can_be_set():
    counter = EpochCounter()
    assert [counter(), counter()] == [0, 1]
    counter.set(7)
    assert [counter(), counter()] == [7, 8]


def test_each_iteration_is_the_next_epoch():
    dataset = make_dataset()
    epochs = [read(dataset) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    (counter,) = epoch_counters(dataset)
    counter.set(1)
    assert read(dataset) == epochs[1]
    assert read(dataset) == epochs[2]
    counter.set(0)
    assert read(dataset) == epochs[0]


def test_a_resumed_run_sees_what_the_uninterrupted_run_saw():
    dataset = make_dataset()
    epochs = [read(dataset) for _ in range(3)]
    resumed = make_dataset()
    epoch_counters(resumed)[0].set(2)
    assert read(resumed) == epochs[2]


def test_an_epoch_left_early_counts():
    dataset = make_dataset()
    next(iter(dataset))
    second = read(dataset)
    epoch_counters(dataset)[0].set(1)
    assert read(dataset) == second


def test_repeat_goes_through_the_epochs():
    dataset = make_dataset()
    expected = read(dataset) + read(dataset)
    assert read(make_dataset().repeat(2)) == expected


def test_counters_are_found_behind_further_stages():
    dataset = make_dataset()
    (counter,) = epoch_counters(dataset)
    mapped = dataset.map(lambda x, y: (x + 1, y)).prefetch(2)
    assert epoch_counters(mapped) == [counter]
    other = make_dataset()
    zipped = tf.data.Dataset.zip((mapped, other, dataset))
    found = epoch_counters(zipped)
    assert len(found) == 2
    assert set(found) == {counter, *epoch_counters(other)}


def test_other_datasets_have_no_counters():
    assert epoch_counters(tf.data.Dataset.range(3).map(lambda x: x)) == []
    assert epoch_counters(np.zeros(3)) == []
