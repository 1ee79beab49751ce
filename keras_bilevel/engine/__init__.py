"""Everything that touches TensorFlow's tapes, replicas and state.

To support another backend, replace this folder.
"""

from keras_bilevel.engine.compiled_losses import check_linear
from keras_bilevel.engine.compiled_losses import compile_losses
from keras_bilevel.engine.examples import walk as walk_examples
from keras_bilevel.engine.gradients import THREAD
from keras_bilevel.engine.gradients import LossScale
from keras_bilevel.engine.gradients import add_regularizers
from keras_bilevel.engine.gradients import apply
from keras_bilevel.engine.gradients import suspects
from keras_bilevel.engine.gradients import without_regularizers
from keras_bilevel.engine.replicas import MultiWorker
from keras_bilevel.engine.replicas import check_strategy
from keras_bilevel.engine.replicas import gather
from keras_bilevel.engine.replicas import has_workers
from keras_bilevel.engine.replicas import make_once
from keras_bilevel.engine.replicas import of_workers
from keras_bilevel.engine.replicas import reduce_sum
from keras_bilevel.engine.selected import NEEDS
from keras_bilevel.engine.selected import walk as walk_selected
from keras_bilevel.engine.shards import walk as walk_shards
from keras_bilevel.engine.state import finite_only
from keras_bilevel.engine.state import read
from keras_bilevel.engine.state import seed_states
from keras_bilevel.engine.state import write
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.vectors import effective_units
