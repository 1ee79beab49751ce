"""All that touches tapes, replicas and state of TensorFlow.

Another backend means another engine.
"""

from keras_bilevel.engine.applying import apply
from keras_bilevel.engine.compiled_losses import check_linear
from keras_bilevel.engine.compiled_losses import compile_losses
from keras_bilevel.engine.compiled_losses import means_of
from keras_bilevel.engine.compiled_losses import outputs_of
from keras_bilevel.engine.examples import walk as walk_examples
from keras_bilevel.engine.losses import add_regularizers
from keras_bilevel.engine.losses import are_data_only
from keras_bilevel.engine.losses import suspects
from keras_bilevel.engine.losses import without_regularizers
from keras_bilevel.engine.normalize import effective_units
from keras_bilevel.engine.replicas import check_strategy
from keras_bilevel.engine.replicas import gather
from keras_bilevel.engine.replicas import has_workers
from keras_bilevel.engine.replicas import make_once
from keras_bilevel.engine.replicas import of_workers
from keras_bilevel.engine.replicas import reduce_sum
from keras_bilevel.engine.scaling import LossScale
from keras_bilevel.engine.selected import NEEDS
from keras_bilevel.engine.selected import walk as walk_selected
from keras_bilevel.engine.shards import walk as walk_shards
from keras_bilevel.engine.state import finite_only
from keras_bilevel.engine.state import read
from keras_bilevel.engine.state import seed_states
from keras_bilevel.engine.state import write
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.structure import get_masks
from keras_bilevel.engine.structure import map_tensors
from keras_bilevel.engine.structure import set_masks
