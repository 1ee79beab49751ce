"""Schemes: what differs between shards, examples and selected examples."""

from keras_bilevel.schemes.examples import Examples
from keras_bilevel.schemes.selected import Selected
from keras_bilevel.schemes.shards import Shards
