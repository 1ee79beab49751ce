"""Rules: which small-loss examples each network learns from."""

from keras_bilevel.selection.class_balanced_co_teaching import (
    ClassBalancedCoTeaching,
)
from keras_bilevel.selection.co_teaching import CoTeaching
from keras_bilevel.selection.co_teaching_plus import CoTeachingPlus
from keras_bilevel.selection.decoupling import Decoupling
from keras_bilevel.selection.early_learning import EarlyLearning
from keras_bilevel.selection.rule import Rule
from keras_bilevel.selection.self_paced import SelfPaced
from keras_bilevel.selection.smallest import smallest
