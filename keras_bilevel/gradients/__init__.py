"""All that touches tapes and replicas; another backend means another one."""

from keras_bilevel.gradients.applying import apply
from keras_bilevel.gradients.compiled_losses import CompiledLosses
from keras_bilevel.gradients.compiled_losses import MeanOfSome
from keras_bilevel.gradients.compiled_losses import check_linear
from keras_bilevel.gradients.compiled_losses import example_losses
from keras_bilevel.gradients.compiled_losses import outputs_of
from keras_bilevel.gradients.examples import walk as walk_examples
from keras_bilevel.gradients.losses import add_regularizers
from keras_bilevel.gradients.losses import are_data_only
from keras_bilevel.gradients.losses import suspects
from keras_bilevel.gradients.losses import without_regularizers
from keras_bilevel.gradients.normalize import effective_units
from keras_bilevel.gradients.replicas import gather
from keras_bilevel.gradients.replicas import has_workers
from keras_bilevel.gradients.replicas import of_workers
from keras_bilevel.gradients.replicas import reduce_sum
from keras_bilevel.gradients.scaling import LossScale
from keras_bilevel.gradients.selected import walk as walk_selected
from keras_bilevel.gradients.shards import walk as walk_shards
from keras_bilevel.gradients.state import finite_only
from keras_bilevel.gradients.state import read
from keras_bilevel.gradients.state import seed_states
from keras_bilevel.gradients.state import write
from keras_bilevel.gradients.step import Batch
from keras_bilevel.gradients.step import Step
from keras_bilevel.gradients.structure import get_masks
from keras_bilevel.gradients.structure import map_tensors
from keras_bilevel.gradients.structure import set_masks
