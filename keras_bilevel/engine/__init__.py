"""Everything that touches gradients, replicas and state.

What is here works for any backend. A folder for each backend of Keras has the
rest. What the code here asks for has the same names in both.
"""

from keras_bilevel.engine.backend import gradients
from keras_bilevel.engine.backend import replicas
from keras_bilevel.engine.backend import shards
from keras_bilevel.engine.backend import storage
from keras_bilevel.engine.backend import training
from keras_bilevel.engine.compiled_losses import aligned_with_masks
from keras_bilevel.engine.compiled_losses import check_linear
from keras_bilevel.engine.compiled_losses import compile_losses
from keras_bilevel.engine.compiled_losses import losses_of
from keras_bilevel.engine.compiled_losses import outputs_of
from keras_bilevel.engine.example_losses import NEEDS
from keras_bilevel.engine.examples import walk as walk_examples
from keras_bilevel.engine.losses import THREAD
from keras_bilevel.engine.losses import LossScale
from keras_bilevel.engine.losses import suspects
from keras_bilevel.engine.losses import without_regularizers
from keras_bilevel.engine.selected import walk as walk_selected
from keras_bilevel.engine.state import finite_only
from keras_bilevel.engine.state import loss_trackers
from keras_bilevel.engine.state import read
from keras_bilevel.engine.state import seed_states
from keras_bilevel.engine.state import write
from keras_bilevel.engine.step import Step
from keras_bilevel.engine.step import add_regularizers
from keras_bilevel.engine.step import effective_units

apply = gradients.apply
check_replicated = replicas.check_replicated
check_strategy = replicas.check_strategy
check_validation = replicas.check_validation
gather = replicas.gather
has_workers = replicas.has_workers
make_once = replicas.make_once
of_workers = replicas.of_workers
part_of_worker = replicas.part_of_worker
reduce_sum = replicas.reduce_sum
replicas_of = replicas.replicas_of
scope_of = replicas.scope_of
walk_shards = shards.walk
add_rows = storage.add_rows
check_ids = storage.check_ids
raise_rows = storage.raise_rows
read_rows = storage.read_rows
replace_file = storage.replace_file
write_histogram = storage.write_histogram
write_rows = storage.write_rows
StepOfBackend = training.StepOfBackend
predicted = training.predicted
