"""Searches with KerasTuner: S2E's for a schedule, and one for shards."""

import sys

# isort: off
from keras_bilevel.tuners import _extra
# isort: on

from keras_bilevel._exports import show_exports
from keras_bilevel.tuners.reused_model import ReusedModel
from keras_bilevel.tuners.s2e_oracle import S2EOracle
from keras_bilevel.tuners.s2e_tuner import S2ETuner
from keras_bilevel.tuners.settings import Suggestion
from keras_bilevel.tuners.settings import suggest_settings

show_exports(sys.modules[__name__])
