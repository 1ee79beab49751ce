"""Stratified super-batches, source/target batches and label noise."""

from keras_bilevel.data import noise
from keras_bilevel.data.epochs import EpochCounter
from keras_bilevel.data.epochs import epoch_counters
from keras_bilevel.data.shuffled import shuffled_batches
from keras_bilevel.data.source_target import source_target_batches
from keras_bilevel.data.stratified import stratified_batches
