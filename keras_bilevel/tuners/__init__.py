"""S2E's search for a schedule, a tuner of KerasTuner."""

# isort: off
from keras_bilevel.tuners import _extra
# isort: on

from keras_bilevel.tuners.reused_model import ReusedModel
from keras_bilevel.tuners.s2e_oracle import S2EOracle
from keras_bilevel.tuners.s2e_tuner import S2ETuner
