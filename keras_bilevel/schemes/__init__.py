"""What carries a weight, and all that depends on it."""

from keras_bilevel.schemes.examples import Examples
from keras_bilevel.schemes.selected import Selected
from keras_bilevel.schemes.shards import Shards
