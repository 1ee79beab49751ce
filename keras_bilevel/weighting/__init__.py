"""Weightings: from alignments to weights."""

from keras_bilevel.weighting.deep_bilevel import DeepBilevel
from keras_bilevel.weighting.get import get
from keras_bilevel.weighting.learning_to_reweight import LearningToReweight
from keras_bilevel.weighting.meta_weight_net import MetaWeightNet
from keras_bilevel.weighting.soseleto import Soseleto
from keras_bilevel.weighting.weighting import ExampleWeighting
from keras_bilevel.weighting.weighting import ShardWeighting
from keras_bilevel.weighting.weighting import Weighting
