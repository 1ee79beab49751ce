"""Steps of all methods on drawn networks, against plain tapes in float64.

The reference knows nothing of the package: gradients come from one tape for
each shard, example or set of kept examples, all else is NumPy.
"""

import os
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bilevel as kb
from keras_bilevel.engine.tensorflow import at_once
from keras_bilevel.engine.tensorflow import known_layers
from keras_bilevel.engine.tensorflow import one_pass
from tests import differential
from tests.differential import BATCH
from tests.differential import TARGET
from tests.differential import Plan
from tests.weighting.alignment_test import float64

COUNT = int(os.environ.get("DIFFERENTIAL_NETWORKS", differential.CYCLE))
SHARDS = 4
NUM_EXAMPLES = 20
DEEP = {
    "deep": {},
    "deep_per_layer": {"per_layer": True},
    "deep_exact": {"solver": "exact"},
    "deep_two": {"num_validation_shards": 2},
    "deep_per_layer_exact": {"per_layer": True, "solver": "exact"},
    "deep_plain": {"l1_normalize": False, "lambda_": 0.5, "mu": 0.1},
}
EXAMPLES = ["soseleto", "soseleto_first", "reweight"]
SELECTION = ["self_paced", "co_teaching"]
# Some blocks forget masks, as Keras says each time.
LOST_MASKS = "ignore:Layer '.*' .* was passed an input with a mask"


def methods(seed):
    """Returns two methods, or three, for a network."""
    # Even and odd seeds draw from other layers: both see every method.
    turn = seed // 2
    chosen = [list(DEEP)[turn % len(DEEP)], EXAMPLES[turn % len(EXAMPLES)]]
    if turn % 3 == 0:
        chosen.append(SELECTION[turn // 3 % len(SELECTION)])
    return chosen


class Reference:
    """A drawn network in float64, and its loss written out.

    Args:
        plan: The `Plan`.
        weights: List of arrays, the weights of the network.
    """

    def __init__(self, plan, weights):
        self.plan = plan
        self.start = weights
        with float64():
            self.network = plan.network()
        self.network.set_weights(weights)

    def parts(self, batch):
        """Returns what each example adds to the loss, and the rest of it.

        Weight regularisers are not in it.

        Args:
            batch: Tuple `(x, y, sample_weight)`.
        """
        x, y, weights = batch
        with float64():
            y_pred = self.network(_float64(x), training=True)
        total, outputs = 0.0, self.outputs(y, y_pred)
        for share, numbers, mask in outputs:
            count = tf.reduce_sum(mask)
            counts = mask * _like(weights, numbers)
            axes = list(range(1, len(numbers.shape)))
            total += share * tf.reduce_sum(numbers * counts, axes) / count
        with float64():
            rest = tf.add_n([tf.zeros((), tf.float64), *self.network.losses])
        return total, rest - self.penalty(), outputs

    def outputs(self, y, y_pred):
        """Returns share, losses and mask, 0 or 1, for each output."""
        found = []
        for (name, kind), labels, output in zip(
            self.plan.heads.items(),
            keras.tree.flatten(y),
            keras.tree.flatten(y_pred),
        ):
            numbers = _losses(kind, labels, output)
            mask = getattr(output, "_keras_mask", None)
            mask = tf.ones_like(numbers) if mask is None else mask
            mask = tf.cast(mask, tf.float64)
            found.append((self.plan.loss_weights[name], numbers, mask))
        return found

    def penalty(self):
        with float64():
            parts = [
                v.regularizer(v.value)
                for v in self.network.trainable_variables
                if v.regularizer is not None
            ]
        return tf.add_n([tf.zeros((), tf.float64), *parts])

    def gradient(self, tape, value):
        slopes = tape.gradient(value, self.network.trainable_variables)
        return [
            None if g is None else tf.convert_to_tensor(g).numpy()
            for g in slopes
        ]

    def pull(self):
        """Returns the gradient of the weight regularisers."""
        with tf.GradientTape() as tape:
            value = self.penalty()
        return self.gradient(tape, value)

    def mean(self, batch):
        """Returns the loss of a batch and its gradient."""
        with tf.GradientTape() as tape:
            parts, rest, _ = self.parts(batch)
            value = tf.reduce_sum(parts) + rest
        return float(value), self.gradient(tape, value)

    def each(self, batch):
        """Returns losses and gradients of examples times their number.

        All examples are in the batch of each: what mixes them does so. The
        last value and gradient are of what belongs to no example.
        """
        with tf.GradientTape(persistent=True) as tape:
            parts, rest, _ = self.parts(batch)
            singles = [part * len(parts) for part in tf.unstack(parts)]
        return (
            np.array([float(v) for v in singles]),
            [self.gradient(tape, v) for v in singles],
            float(rest),
            self.gradient(tape, rest),
        )

    def kept(self, batch, choose):
        """Returns loss, gradient and choice of a step on chosen examples.

        Args:
            batch: Tuple `(x, y, sample_weight)`.
            choose: Function from the examples' mean losses to a mask.
        """
        x, y, weights = batch
        with tf.GradientTape() as tape:
            _, rest, outputs = self.parts(batch)
            outputs = [
                (share, numbers, mask, mask * _like(weights, numbers))
                for share, numbers, mask in outputs
            ]
            chosen = choose(
                sum(
                    share * _row_sums(numbers * counts) / _row_sums(counts)
                    for share, numbers, _, counts in outputs
                )
            )
            value = rest + self.penalty()
            for share, numbers, mask, counts in outputs:
                kept = _like(chosen, numbers)
                part = tf.reduce_sum(numbers * counts * kept)
                value += share * part / tf.reduce_sum(mask * kept)
        return float(value), self.gradient(tape, value), chosen


def _like(weights, numbers):
    """Returns weights, or ones for `None`, that meet a loss of any rank."""
    if weights is None:
        return tf.ones_like(numbers)
    ones = [1] * (len(numbers.shape) - weights.ndim)
    return np.reshape(weights.astype("float64"), (*weights.shape, *ones))


def _row_sums(tensor):
    return tensor.numpy().reshape(len(tensor), -1).sum(1)


def _float64(x):
    def cast(t):
        t = tf.convert_to_tensor(t)
        return tf.cast(t, tf.float64) if t.dtype.is_floating else t

    return keras.tree.map_structure(cast, x)


def _losses(kind, labels, output):
    """Returns a loss for each example, or for each token of each."""
    if kind == "numbers":
        return tf.reduce_mean((output - labels) ** 2, -1)
    if kind == "binary":
        signs = 2.0 * tf.cast(labels, tf.float64) - 1.0
        return tf.reduce_mean(tf.math.softplus(-signs * output), -1)
    if kind == "softmax":
        output = tf.math.log(output)
    right = tf.one_hot(labels, output.shape[-1], dtype=tf.float64)
    right = tf.reduce_sum(right * output, -1)
    return tf.reduce_logsumexp(output, -1) - right


class Case:
    """A drawn network, its data and its reference."""

    def __init__(self, seed):
        self.plan = Plan(seed)
        keras.utils.set_random_seed(seed)
        self.network = self.plan.network()
        rng = np.random.default_rng([seed, 3])
        _perturb(self.network, rng)
        self.start = self.network.get_weights()
        self.batch = self.plan.batch(self.network, BATCH, 0)
        self.target = self.plan.batch(self.network, TARGET, 1)
        self.reference = Reference(self.plan, self.start)
        self.pull = self.reference.pull()
        # Tracing takes long, but a graph is what users run.
        self.runs_eagerly = seed % 30 not in (8, 29)

    def another(self):
        """Returns a network that begins with other weights."""
        network = self.plan.network()
        network.set_weights(self.start)
        _perturb(network, np.random.default_rng([self.plan.seed, 4]))
        return network


def _perturb(network, rng):
    # Not all biases 0, and no half of LoRA.
    for v in network.trainable_variables:
        noise = rng.normal(size=v.shape) * 0.15
        v.assign(v + noise.astype("float32"))


def _statistics(network):
    # Without the states of seeds.
    found = network.non_trainable_variables
    return [v for v in found if v.dtype.startswith("float")]


def _state(network):
    return [v.numpy() for v in _statistics(network)]


def _flat(gradient):
    return np.concatenate([g.ravel() for g in gradient if g is not None])


def _sum(parts):
    """Sums gradients times factors; `None` is nothing."""
    total = [None] * len(parts[0][1])
    for factor, gradient in parts:
        for i, g in enumerate(gradient):
            if g is not None:
                total[i] = factor * g + (0.0 if total[i] is None else total[i])
    return total


class Recorder:
    """An observer that keeps the numbers of a step, in a graph as well."""

    def __init__(self):
        self.seen = {}

    def observe(self, step):
        for name in ("weights", "losses", "dropped"):
            value = tf.cast(getattr(step, name), tf.float32)
            if name not in self.seen:
                with tf.init_scope():
                    zeros = tf.zeros(value.shape)
                    self.seen[name] = tf.Variable(zeros)
            self.seen[name].assign(value)


def run(model, case, batch):
    """Takes one step and returns what a recorder has seen of it."""
    recorder = Recorder()
    model.compile(
        keras.optimizers.SGD(1.0),
        run_eagerly=case.runs_eagerly,
        **case.plan.losses(),
    )
    model._observers = [recorder]
    model.make_train_function()
    batches = tf.data.Dataset.from_tensors(batch)
    model.train_function(iter(batches))
    seen = {name: value.numpy() for name, value in recorder.seen.items()}
    np.testing.assert_array_equal(seen["dropped"], 0.0)
    return seen


def agree(name, found, expected, scale=None):
    """Compares to 1e-4 of the largest number there is.

    Rounding of float32 is 6e-8 of what is summed; sums over some 100 products,
    and divisions by small deviations in normalisations, make some 100 times
    that of it, rarely 1000 times.
    """
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-4 * scale + 1e-6, err_msg=name
    )


def check_change(network, before, parts, state, blur=1.0):
    """Checks the change of each variable, and the statistics of the state.

    Args:
        network: The network after the step.
        before: List of arrays, its trainable variables before.
        parts: List of pairs of a factor and a gradient, whose sum is the step.
        state: List of arrays, what the moving statistics should be.
        blur: Float, by how much more than others the factors are rounded.
    """
    gradient = _sum(parts)
    # What is rounded is what is summed, even where the sum is near 0.
    sizes = _sum([(abs(f), _absolute(g)) for f, g in parts])
    largest = max(g.max() for g in sizes if g is not None)
    for old, v, g, size in zip(
        before, network.trainable_variables, gradient, sizes, strict=True
    ):
        g = np.zeros(v.shape) if g is None else g
        # A bias before BatchNormalization has a gradient of mere rounding.
        scale = 0.02 * largest + (0.0 if size is None else size.max())
        agree(f"change of {v.path}", old - v.numpy(), g, scale * blur)
    for v, value in zip(_statistics(network), state, strict=True):
        agree(f"state {v.path}", v.numpy(), value)


def _absolute(gradient):
    return [None if g is None else np.abs(g) for g in gradient]


def trainable(network):
    return [v.numpy() for v in network.trainable_variables]


def check_deep(case, options):
    """Checks a step in each way in which a network can take it."""
    _check_deep(case, options)
    if case.plan.known:
        # As on an accelerator, and as other networks do.
        for room, name in (at_once, "prefers_loops"), (one_pass, "can_share"):
            case.network.set_weights(case.start)
            with mock.patch.object(room, name, return_value=False):
                _check_deep(case, options)


def _check_deep(case, options):
    """Eqs. 8 to 11, from a gradient for each shard."""
    reference, network = case.reference, case.network
    before = trainable(network)
    weighting = kb.weighting.DeepBilevel(SHARDS, **options)
    batch = case.batch[: 2 + case.plan.has_sample_weights]
    seen = run(kb.BilevelModel(network, weighting), case, batch)
    reference.network.set_weights(case.start)
    losses, gradients = [], []
    for j in range(SHARDS):
        rows = slice(j * BATCH // SHARDS, (j + 1) * BATCH // SHARDS)
        part = keras.tree.map_structure(
            lambda t: None if t is None else t[rows], case.batch
        )
        loss, gradient = reference.mean(part)
        losses.append(loss)
        gradients.append(gradient)
    agree("losses", seen["losses"], losses)
    split = options.get("num_validation_shards", 1)
    mu, lambda_ = options.get("mu", 0.01), options.get("lambda_", 1.0)
    weights, parts = [], [(1.0, case.pull)]
    blur = 1.0
    for group in _groups(reference.network, gradients[0], options):
        flat = np.array([_flat([g[i] for i in group]) for g in gradients])
        flat, judge = flat[split:], flat[:split].sum(0)
        w = flat @ judge
        if "solver" in options:
            gram = flat @ flat.T / lambda_ + mu * np.eye(len(flat))
            w = np.linalg.solve(gram, w)
            # Equations lose as many digits as their condition number has.
            rounding = np.finfo("float32").eps * np.linalg.cond(gram)
            blur = max(blur, rounding / 1e-4)
        else:
            w = w / ((flat**2).sum(1) / lambda_ + mu)
        if options.get("l1_normalize", True):
            w = w / np.abs(w).sum()
        weights.append(w)
        parts += [
            (a, [x if i in group else None for i, x in enumerate(g)])
            for a, g in zip(w, gradients[split:])
        ]
    largest = np.abs(weights).max()
    agree("weights", seen["weights"], np.array(weights), largest * blur)
    check_change(network, before, parts, _state(reference.network), blur)


def _groups(network, gradient, options):
    """Returns the places of the variables that share a weight."""
    groups = {}
    for i, v in enumerate(network.trainable_variables):
        if gradient[i] is not None:
            owner = v.path.rpartition("/")[0] if "per_layer" in options else ""
            groups.setdefault(owner, []).append(i)
    return list(groups.values())


def check_examples(case, method):
    """Algorithm 1 of SOSELETO, in both orders, and Learning to Reweight."""
    reference = case.reference
    reference.network.set_weights(case.start)
    _, judge = reference.mean(case.target)
    losses, each, rest, own = reference.each(case.batch)
    state = _state(reference.network)
    known = [i for i, g in enumerate(judge) if g is not None]
    direction = _flat([judge[i] for i in known])
    alignments = [
        sum((g[i] * judge[i]).sum() for i in known if g[i] is not None)
        for g in each
    ]
    alignments = np.array(alignments)
    # The inner product of long vectors may be a small number.
    lengths = [np.linalg.norm(_flat(g)) for g in each]
    scale = np.max(lengths) * np.linalg.norm(direction)
    rng = np.random.default_rng([case.plan.seed, 5])
    ids = rng.permutation(NUM_EXAMPLES)[:BATCH]
    alpha = rng.uniform(0.1, 1.0, NUM_EXAMPLES)
    moved = alpha.copy()
    if method == "reweight":
        weighting = kb.weighting.LearningToReweight()
        weights = np.maximum(alignments, 0.0)
        weights = weights / weights.sum() if weights.any() else weights
        factors = weights
        blur = scale / np.maximum(alignments, 0.0).sum()
    else:
        # The largest example moves by 1, and so some reach a bound.
        rate = float(1.0 / np.abs(alignments).max())
        first = method == "soseleto_first"
        weighting = kb.weighting.Soseleto(
            NUM_EXAMPLES, alpha_lr=rate, update_weights_first=first
        )
        weighting.alpha.assign(alpha)
        moved[ids] = np.clip(alpha[ids] + rate * alignments, 0.0, 1.1)
        weights = (moved if first else alpha)[ids]
        factors = weights / BATCH
        blur = scale * rate
    network = case.network
    before = trainable(network)
    end = 2 + case.plan.has_sample_weights
    batch = (*case.batch[:end], ids), case.target[:end]
    seen = run(kb.BilevelModel(network, weighting), case, batch)
    agree("losses", seen["losses"], losses + rest)
    # Where weights follow from alignments they inherit their rounding, which
    # is in proportion to the lengths of both vectors.
    blur = max(1.0, 0.1 * blur)
    agree("weights", seen["weights"], weights[None], weights.max() * blur)
    if method != "reweight":
        agree("alpha", weighting.example_weights, moved, blur)
        scores = np.zeros(NUM_EXAMPLES)
        scores[ids] = rate * alignments
        agree("scores", weighting.example_scores, scores, blur)
    parts = [(1.0, own), (1.0, case.pull), *zip(factors, each)]
    check_change(network, before, parts, state)


def check_selection(case, method):
    """The smaller half of the losses: one's own, or those of the peer."""
    networks = [case.network]
    rule = kb.selection.SelfPaced()
    if method == "co_teaching":
        networks.append(case.another())
        rule = kb.selection.CoTeaching()
    weights = [n.get_weights() for n in networks]
    before = [trainable(n) for n in networks]
    model = kb.SelectionModel(
        networks, rule, kb.schedules.ConstantSchedule(0.5)
    )
    model.epoch = 1
    batch = case.batch[: 2 + case.plan.has_sample_weights]
    seen = run(model, case, batch)
    masks = []
    for start in weights:
        case.reference.network.set_weights(start)
        _, _, mask = case.reference.kept(case.batch, _smaller_half)
        masks.append(mask)
    for i, start in enumerate(weights):
        case.reference.network.set_weights(start)
        mask = masks[-1 - i]
        loss, gradient, _ = case.reference.kept(case.batch, lambda _: mask)
        np.testing.assert_array_equal(seen["weights"][i], mask)
        agree("loss", seen["losses"][i], loss)
        state = _state(case.reference.network)
        check_change(networks[i], before[i], [(1.0, gradient)], state)


def _smaller_half(losses):
    mask = np.zeros(BATCH, bool)
    mask[np.argsort(losses)[: BATCH // 2]] = True
    return mask


@pytest.mark.filterwarnings(LOST_MASKS)
@pytest.mark.parametrize("seed", range(COUNT))
def test_step_equals_plain_tapes(seed):
    case = Case(seed)
    for method in methods(seed):
        case.network.set_weights(case.start)
        try:
            if method in DEEP:
                check_deep(case, DEEP[method])
            elif method in EXAMPLES:
                check_examples(case, method)
            else:
                check_selection(case, method)
        except Exception as error:
            error.add_note(
                f"{method} on network {seed}: {', '.join(case.plan.names)}; "
                f"outputs {', '.join(case.plan.heads)}. Run it alone by "
                f"DIFFERENTIAL_NETWORKS={max(COUNT, seed + 1)} python -m pytest"
                " 'tests/differential_test.py::test_step_equals_plain_tapes"
                f"[{seed}]'"
            )
            raise


@pytest.mark.filterwarnings(LOST_MASKS)
def test_every_block_is_drawn_and_both_passes_are_taken():
    drawn = set()
    for seed in range(differential.CYCLE):
        plan = Plan(seed)
        network = plan.network()
        drawn |= set(plan.names)
        for table, known in (
            (known_layers.ROW_BY_ROW, differential.ROWS),
            (known_layers.SHARD_BY_SHARD, differential.SHARDS),
        ):
            unknown = known_layers.first_unknown(network, table)
            assert (unknown is None) == (plan.known >= known), plan.names
    assert drawn == {name for name, *_ in differential.BLOCKS}
