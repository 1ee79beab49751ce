"""Small networks drawn at random from Keras' layers.

A seed says all: the same network is drawn again in another float type. Even
seeds draw from the layers that the package takes to keep examples or shards
apart, odd ones from all. Any number of seeds in a row that is `CYCLE` or more
draws every block at least once.
"""

import keras
import numpy as np
from keras import layers
from keras import ops

CYCLE = 60
BATCH, TARGET, CLASSES, WORDS = 12, 6, 3, 9

# What a tensor is, by its rank, and the shape of an input of that kind.
SHAPES = {2: (5,), 3: (6, 4), 4: (5, 4, 4), 5: (4, 3, 4, 2)}
ACTIVATIONS = [
    "tanh",
    "relu",
    "gelu",
    "elu",
    "softplus",
    "sigmoid",
    "silu",
    "selu",
    "mish",
    "exponential",
    "softsign",
    "leaky_relu",
    "log_sigmoid",
    "softmax",
]

# What the package takes a block to keep apart.
ROWS, SHARDS, NOTHING = 2, 1, 0
BLOCKS = []


def block(rank, known=NOTHING, tokens=False):
    """Adds a block for tensors of a rank: function from rng and tensor."""

    def add(function):
        BLOCKS.append((function.__name__, rank, known, tokens, function))
        return function

    return add


def simple(rank, known, **makers):
    """Adds blocks that are a single call of a single layer."""
    for name, make in makers.items():
        BLOCKS.append(
            (name, rank, known, False, lambda rng, x, make=make: make()(x))
        )


class Square(layers.Layer):
    """A layer of one's own, with a variable of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x + 0.3 * ops.square(x) * self.scale


class Centered(layers.Layer):
    """A layer of one's own that mixes the examples of a batch."""

    def call(self, x):
        return x - 0.5 * ops.mean(x, axis=0, keepdims=True)


class Penalized(layers.Layer):
    """A layer that adds a loss."""

    def call(self, x):
        self.add_loss(0.05 * ops.mean(ops.square(x)))
        return ops.tanh(x)


def curved(x):
    return x * ops.sigmoid(x)


# Vectors.


@block(2, known=ROWS)
def dense(rng, x):
    return layers.Dense(5, activation=str(rng.choice(ACTIVATIONS)))(x)


@block(2, known=ROWS)
def regularized(rng, x):
    return layers.Dense(
        4, "tanh", kernel_regularizer="l2", bias_regularizer="l1"
    )(x)


@block(2, known=ROWS)
def residual(rng, x):
    return layers.Add()([x, layers.Dense(x.shape[-1], activation="tanh")(x)])


@block(2, known=ROWS)
def merged(rng, x):
    kinds = [
        layers.Subtract,
        layers.Multiply,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
    ]
    a, b, c = (layers.Dense(4)(x) for _ in range(3))
    first, second = rng.choice(len(kinds), 2)
    return kinds[second]()([kinds[first]()([a, b]), c])


@block(2, known=ROWS)
def called_twice(rng, x):
    layer = layers.Dense(x.shape[-1], activation="gelu")
    return layer(layers.LayerNormalization()(layer(x)))


@block(2, known=ROWS)
def nested(rng, x):
    inner = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Dense(4, activation="silu"),
            layers.Dense(4),
        ]
    )
    return layers.Dense(4)(inner(x))


@block(2, known=ROWS)
def nested_twice(rng, x):
    size = x.shape[-1]
    start = keras.Input((size,))
    inner = keras.Model(start, layers.Dense(size, activation="tanh")(start))
    return layers.Add()([inner(inner(x)), x])


@block(2, known=ROWS)
def frozen(rng, x):
    x = layers.Dense(5, activation="tanh", trainable=False)(x)
    return layers.Dense(4)(x)


@block(2, known=ROWS)
def partly_frozen(rng, x):
    layer = layers.Dense(5, activation="relu")
    x = layer(x)
    layer.bias.trainable = False
    return x


@block(2, known=ROWS)
def lora(rng, x):
    layer = layers.Dense(5, activation="tanh")
    x = layer(x)
    layer.enable_lora(2)
    return x


@block(2, known=ROWS)
def layer_as_activation(rng, x):
    return layers.Dense(4, activation=layers.LeakyReLU(0.3))(x)


@block(2, known=ROWS)
def variable_as_activation(rng, x):
    activation = layers.PReLU("ones")
    activation.build((None, 4))  # Keras does so only when numbers come.
    return layers.Dense(4, activation=activation)(x)


@block(2)
def regularized_activity(rng, x):
    return layers.Dense(4, "tanh", activity_regularizer="l2")(x)


@block(2)
def bare_operations(rng, x):
    return ops.sin(x) * 0.5 + ops.matmul(x, ops.ones((x.shape[-1], 1)) * 0.1)


@block(2, known=ROWS)
def dot(rng, x):
    a, b = layers.Dense(4)(x), layers.Dense(4)(x)
    return layers.Concatenate()([layers.Dot(axes=1, normalize=True)([a, b]), a])


@block(2, known=ROWS)
def bilinear_norm(rng, x):
    layer = layers.BatchNormalization(trainable=False)
    return layer(layers.Dense(4)(x))


@block(2, known=ROWS)
def to_sequence(rng, x):
    return layers.RepeatVector(3)(layers.Dense(4)(x))


@block(2, known=SHARDS)
def shared_mixing(rng, x):
    layer = layers.BatchNormalization()
    return layer(layers.Dense(x.shape[-1], activation="tanh")(layer(x)))


@block(2, known=SHARDS)
def nested_mixing(rng, x):
    inner = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(momentum=0.3, epsilon=0.01),
        ]
    )
    return layers.Dense(4)(inner(x))


@block(2, known=SHARDS)
def inference_mode(rng, x):
    return layers.BatchNormalization()(x, training=False)


@block(2, known=SHARDS)
def partly_frozen_mixing(rng, x):
    layer = layers.BatchNormalization(center=bool(rng.integers(2)))
    x = layer(x)
    layer.gamma.trainable = False
    return x


simple(
    2,
    ROWS,
    softsign=lambda: layers.Activation("softsign"),
    relu=lambda: layers.ReLU(max_value=1.0, negative_slope=0.1),
    leaky=lambda: layers.LeakyReLU(0.2),
    elu=lambda: layers.ELU(),
    rescaling=lambda: layers.Rescaling(0.5, 0.1),
    layer_norm=lambda: layers.LayerNormalization(),
    no_bias=lambda: layers.Dense(4, use_bias=False),
    wide=lambda: layers.Dense(40, activation="tanh"),
    rms_norm=lambda: layers.RMSNormalization(),
    unit_norm=lambda: layers.UnitNormalization(),
    prelu=lambda: layers.PReLU("ones"),
    softmax=lambda: layers.Softmax(),
    einsum=lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c"),
)
simple(
    2,
    SHARDS,
    batch_norm=lambda: layers.BatchNormalization(),
    batch_norm_plain=lambda: layers.BatchNormalization(
        scale=False, center=False
    ),
)
simple(
    2,
    NOTHING,
    lambda_layer=lambda: layers.Lambda(curved),
    own_layer=lambda: Square(),
    own_mixing=lambda: Centered(),
    own_loss=lambda: Penalized(),
    own_activation=lambda: layers.Dense(4, activation=curved),
    activity=lambda: layers.ActivityRegularization(l2=0.02),
)

# Sequences.


@block(3, known=ROWS)
def convolution_1d(rng, x):
    options = [
        {"padding": "causal", "dilation_rate": 2},
        {"padding": "same", "strides": 2},
        {"padding": "valid", "groups": 2 - x.shape[-1] % 2},
    ]
    option = options[rng.integers(3)]
    return layers.Conv1D(4, 2, activation="tanh", **option)(x)


@block(3, known=ROWS, tokens=True)
def embedding(rng, x):
    return layers.Embedding(WORDS, 4)(x)


@block(3, known=ROWS, tokens=True)
def masked_embedding(rng, x):
    return layers.Embedding(WORDS, 4, mask_zero=True)(x)


@block(3, known=SHARDS, tokens=True)
def masked_mixing(rng, x):
    x = layers.Embedding(WORDS, 4, mask_zero=True)(x)
    return layers.BatchNormalization()(x)


@block(3, tokens=True)
def masked_recurrent(rng, x):
    x = layers.Embedding(WORDS, 4, mask_zero=True)(x)
    kind = [layers.LSTM, layers.GRU, layers.SimpleRNN][rng.integers(3)]
    return kind(4, return_sequences=bool(rng.integers(2)))(x)


@block(3, known=ROWS, tokens=True)
def masked_mean(rng, x):
    x = layers.Embedding(WORDS, 4, mask_zero=True)(x)
    return layers.GlobalAveragePooling1D()(x)


@block(3, known=ROWS, tokens=True)
def masked_attention(rng, x):
    x = layers.Embedding(WORDS, 4, mask_zero=True)(x)
    return x + layers.MultiHeadAttention(2, 3)(x, x)


@block(3, known=ROWS, tokens=True)
def causal_attention(rng, x):
    x = layers.Embedding(WORDS, 4)(x)
    attend = layers.MultiHeadAttention(2, 3, value_dim=2, output_shape=5)
    return attend(x, x, use_causal_mask=True)


@block(3, known=ROWS, tokens=True)
def lora_embedding(rng, x):
    layer = layers.Embedding(WORDS, 4)
    x = layer(x)
    layer.enable_lora(2)
    return layers.UnitNormalization()(x)


@block(3)
def masking(rng, x):
    x = layers.Masking(0.0)(layers.ReLU()(x))
    return layers.LSTM(4)(x)


@block(3)
def bidirectional(rng, x):
    kind = [layers.LSTM, layers.GRU, layers.SimpleRNN][rng.integers(3)]
    many = bool(rng.integers(2))
    mode = str(rng.choice(["concat", "sum", "mul", "ave"]))
    layer = kind(3, return_sequences=many)
    return layers.Bidirectional(layer, merge_mode=mode)(x)


@block(3, known=ROWS)
def self_attention(rng, x):
    return layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)])


@block(3, known=ROWS)
def grouped_attention(rng, x):
    return layers.GroupQueryAttention(3, 4, 2)(x, x)


@block(3, known=ROWS)
def attention(rng, x):
    return layers.Attention(use_scale=True, score_mode="dot")([x, x])


@block(3, known=ROWS)
def additive_attention(rng, x):
    return layers.AdditiveAttention()([x, x])


@block(3)
def stacked_cells(rng, x):
    return layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)])(x)


simple(
    3,
    ROWS,
    transposed_1d=lambda: layers.Conv1DTranspose(3, 2, strides=2),
    depthwise_1d=lambda: layers.DepthwiseConv1D(2, depth_multiplier=2),
    separable_1d=lambda: layers.SeparableConv1D(4, 2, activation="silu"),
    max_1d=lambda: layers.MaxPooling1D(2),
    mean_1d=lambda: layers.AveragePooling1D(2, padding="same"),
    padding_1d=lambda: layers.ZeroPadding1D(1),
    dense_of_tokens=lambda: layers.Dense(4, activation="tanh"),
    group_norm_1d=lambda: layers.GroupNormalization(1),
    upsampling_1d=lambda: layers.UpSampling1D(2),
    cropping_1d=lambda: layers.Cropping1D((1, 0)),
    permute=lambda: layers.Permute((2, 1)),
)
simple(
    3,
    SHARDS,
    batch_norm_1d=lambda: layers.BatchNormalization(),
)
simple(
    3,
    NOTHING,
    lstm=lambda: layers.LSTM(4, return_sequences=True),
    lstm_unrolled=lambda: layers.LSTM(4, unroll=True, use_bias=False),
    gru=lambda: layers.GRU(4, go_backwards=True),
    gru_before=lambda: layers.GRU(4, reset_after=False),
    simple_rnn=lambda: layers.SimpleRNN(4, return_sequences=True),
    distributed=lambda: layers.TimeDistributed(layers.Dense(3, "tanh")),
)

# Images.


@block(4, known=ROWS)
def convolution_2d(rng, x):
    options = [
        {"padding": "same", "dilation_rate": 2},
        {"padding": "same", "strides": 2},
        {"padding": "valid", "kernel_regularizer": "l2"},
    ]
    option = options[rng.integers(3)]
    return layers.Conv2D(4, 2, activation="relu", **option)(x)


@block(4, known=ROWS)
def frozen_convolution(rng, x):
    return layers.Conv2D(4, 2, activation="gelu", trainable=False)(x)


@block(4, known=ROWS)
def residual_convolution(rng, x):
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    return layers.Add()([h, layers.Conv2D(4, 3, padding="same")(h)])


@block(4, known=ROWS)
def lora_convolution(rng, x):
    layer = layers.Conv2D(4, 2, activation="tanh")
    x = layer(x)
    layer.enable_lora(2)
    return layers.UnitNormalization()(x)


@block(4, known=ROWS)
def resizing(rng, x):
    kind = str(rng.choice(["nearest", "bilinear", "bicubic"]))
    return layers.Resizing(4, 5, interpolation=kind)(x)


@block(4, known=ROWS)
def squeeze(rng, x):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Dense(x.shape[-1], activation="sigmoid")(s)
    return layers.Multiply()([layers.UnitNormalization()(x), s])


@block(4)
def squares_of_own(rng, x):
    return Square()(layers.MaxPooling2D(2)(x))


for kind in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"):
    for known in (ROWS, NOTHING):

        def upsampling(rng, x, kind=kind, known=known):
            # TensorFlow has no derivative of Lanczos' resizes in float64.
            dtype = "float32" if kind.startswith("lanczos") else None
            x = layers.UpSampling2D((2, 1), interpolation=kind, dtype=dtype)(x)
            return x if known else layers.Lambda(curved)(x)

        name = f"{kind}_{'alone' if known else 'twice'}"
        BLOCKS.append((name, 4, known, False, upsampling))

simple(
    4,
    ROWS,
    transposed_2d=lambda: layers.Conv2DTranspose(3, 2, strides=2),
    depthwise_2d=lambda: layers.DepthwiseConv2D(2, activation="gelu"),
    separable_2d=lambda: layers.SeparableConv2D(4, 2, activation="elu"),
    max_2d=lambda: layers.MaxPooling2D(2, padding="same"),
    mean_2d=lambda: layers.AveragePooling2D((2, 1)),
    padding_2d=lambda: layers.ZeroPadding2D(1),
    cropping_2d=lambda: layers.Cropping2D(1),
    global_max_2d=lambda: layers.GlobalMaxPooling2D(),
    global_mean_2d=lambda: layers.GlobalAveragePooling2D(),
    group_norm_2d=lambda: layers.GroupNormalization(-1),
    layer_norm_2d=lambda: layers.LayerNormalization(axis=(1, 2, 3)),
    flip=lambda: layers.Permute((2, 1, 3)),
    rms_norm_2d=lambda: layers.RMSNormalization(),
)
simple(
    4,
    SHARDS,
    batch_norm_2d=lambda: layers.BatchNormalization(),
    channels=lambda: layers.BatchNormalization(axis=1),
)
simple(
    4,
    NOTHING,
    conv_lstm_1d=lambda: layers.ConvLSTM1D(3, 2, padding="same"),
    distributed_2d=lambda: layers.TimeDistributed(layers.Conv1D(3, 2)),
)

# Volumes.

simple(
    5,
    ROWS,
    convolution_3d=lambda: layers.Conv3D(3, 2, activation="tanh"),
    transposed_3d=lambda: layers.Conv3DTranspose(2, 2, strides=(2, 1, 1)),
    # TensorFlow has no float64 of these two on a CPU.
    max_3d=lambda: layers.MaxPooling3D(2, padding="same", dtype="float32"),
    mean_3d=lambda: layers.AveragePooling3D((2, 1, 2), dtype="float32"),
    global_max_3d=lambda: layers.GlobalMaxPooling3D(),
    global_mean_3d=lambda: layers.GlobalAveragePooling3D(),
    upsampling_3d=lambda: layers.UpSampling3D((1, 2, 1)),
    padding_3d=lambda: layers.ZeroPadding3D(1),
    cropping_3d=lambda: layers.Cropping3D((1, 0, 1)),
)
simple(
    5,
    SHARDS,
    batch_norm_3d=lambda: layers.BatchNormalization(),
)
simple(
    5,
    NOTHING,
    conv_lstm_2d=lambda: layers.ConvLSTM2D(2, 2, return_sequences=True),
)


class Plan:
    """A network, drawn from a seed, with losses and data.

    Args:
        seed: Integer.

    Attributes:
        names: List of strings, the blocks of the network.
        heads: Dict from the name of an output to its kind: `"classes"`,
            `"softmax"`, `"numbers"` or `"binary"`.
        loss_weights: Dict of floats.
        known: What all layers together are taken to keep apart.
    """

    def __init__(self, seed):
        self.seed = seed
        mine = [b for b in BLOCKS if (b[2] > NOTHING) == (seed % 2 == 0)]
        first = seed % CYCLE // 2 % len(mine)
        self._forced = mine[first :: CYCLE // 2]
        self.known = min(known for _, _, known, *_ in self._forced)
        rng = np.random.default_rng([seed, 0])
        many = rng.random() < 0.3
        kinds = ["classes", "softmax", "numbers", "binary"]
        # Sorted, as Keras flattens a dict of outputs.
        chosen = sorted(rng.choice(kinds, 2 if many else 1, replace=False))
        self.heads = {f"{kind}_out": str(kind) for kind in chosen}
        self.loss_weights = {
            name: float(rng.uniform(0.3, 2.0)) if many else 1.0
            for name in self.heads
        }
        self.has_sample_weights = bool(rng.random() < 0.5)
        # One output for each token, and a mask for the loss where there is one.
        self._wants_tokens = bool(rng.random() < 0.6)
        self._is_dict = bool(rng.random() < 0.5)
        # A weight for each token, where there are outputs for tokens.
        self._weighs_tokens = bool(rng.random() < 0.3)
        self.names = []

    def network(self):
        """Draws the network, in Keras' float type."""
        rng = np.random.default_rng([self.seed, 1])
        self.names = []
        inputs, ends = {}, []
        for one in self._forced:
            name, rank, _, is_tokens, function = one
            if is_tokens or not ends or len(ends[-1].shape) != rank:
                x = _input(f"input_{len(inputs)}", rank, is_tokens)
                inputs[x.name] = x
                if not is_tokens and rng.random() < 0.5:
                    x = self._more(rng, x, keep_rank=True)
            else:
                x = ends.pop()
            self.names.append(name)
            ends.append(function(rng, x))
        x = ends[0]
        if len(ends) > 1:
            x = layers.Add()([layers.Dense(5)(_vector(end)) for end in ends])
        if rng.random() < 0.6:
            x = self._more(rng, x)
        if len(x.shape) != 3 or not self._wants_tokens:
            x = _vector(x)
        outputs = {
            name: self._head(kind, name)(x) for name, kind in self.heads.items()
        }
        if not self._is_dict:
            inputs, outputs = list(inputs.values()), list(outputs.values())
            inputs = inputs[0] if len(inputs) == 1 else inputs
            outputs = outputs[0] if len(outputs) == 1 else outputs
        return keras.Model(inputs, outputs)

    def _more(self, rng, x, keep_rank=False):
        """Puts one more block behind a tensor, if it is large enough."""
        rank = len(x.shape)
        suitable = [
            one
            for one in BLOCKS
            if one[1] == rank and not one[3] and one[2] >= self.known
        ]
        name, *_, function = suitable[rng.integers(len(suitable))]
        if min(x.shape[1:]) < 3:
            return x
        y = function(rng, x)
        if keep_rank and (len(y.shape) != rank or min(y.shape[1:]) < 3):
            return x
        self.names.append(name)
        return y

    def _head(self, kind, name):
        units, activation = {
            "classes": (CLASSES, None),
            "softmax": (CLASSES, "softmax"),
            "numbers": (2, None),
            "binary": (1, None),
        }[kind]
        return layers.Dense(units, activation=activation, name=name)

    def losses(self):
        """Returns the arguments of `compile`."""
        kinds = {
            "classes": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
            "softmax": keras.losses.SparseCategoricalCrossentropy(),
            "numbers": keras.losses.MeanSquaredError(),
            "binary": keras.losses.BinaryCrossentropy(from_logits=True),
        }
        found = {name: kinds[kind] for name, kind in self.heads.items()}
        if self._is_dict:
            return {"loss": found, "loss_weights": self.loss_weights}
        found = list(found.values())
        if len(found) == 1:
            return {"loss": found[0]}
        return {"loss": found, "loss_weights": list(self.loss_weights.values())}

    def batch(self, network, count, salt):
        """Returns `(x, y, sample_weight)`; the last may be `None`."""
        rng = np.random.default_rng([self.seed, 2, salt])
        x = keras.tree.map_structure(
            lambda t: self._values(rng, t, count), network.input
        )
        y = {
            name: self._labels(rng, kind, output, count)
            for (name, kind), output in zip(
                self.heads.items(), keras.tree.flatten(network.output)
            )
        }
        if not self._is_dict:
            # A dataset takes a list for an array.
            x = tuple(x) if isinstance(x, list) else x
            y = tuple(y.values())
            y = y[0] if len(y) == 1 else y
        shape = (count,)
        if self._weighs_tokens:
            shape += tuple(keras.tree.flatten(network.output)[0].shape[1:-1])
        weights = rng.uniform(0.5, 2.0, shape).astype("float32")
        return x, y, weights if self.has_sample_weights else None

    def _values(self, rng, tensor, count):
        shape = (count, *tensor.shape[1:])
        if tensor.dtype != "int32":
            return rng.normal(size=shape).astype("float32")
        words = rng.integers(0, WORDS, shape)
        words[:, 0] = 1 + words[:, 0] % (WORDS - 1)  # None is all padding.
        return words.astype("int32")

    def _labels(self, rng, kind, output, count):
        shape = (count, *output.shape[1:-1])
        if kind in ("classes", "softmax"):
            return rng.integers(0, CLASSES, shape)
        if kind == "binary":
            return rng.integers(0, 2, (*shape, 1)).astype("float32")
        return rng.normal(size=(*shape, 2)).astype("float32")


def _input(name, rank, is_tokens):
    if is_tokens:
        return keras.Input(SHAPES[rank][:1], name=name, dtype="int32")
    return keras.Input(SHAPES[rank], name=name)


def _vector(x):
    return x if len(x.shape) == 2 else layers.Flatten()(x)
