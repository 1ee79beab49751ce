"""All networks of the experiments, by name, and how they are compiled."""

import keras
import numpy as np
from keras import layers

import keras_bilevel as kb


def build(name, input_shape, num_classes):
    """Returns a fresh network with logits as its output."""
    if name not in NETWORKS:
        raise ValueError(
            f"Unknown network. Expected one of {sorted(NETWORKS)}. "
            f"Received: {name!r}"
        )
    hidden = NETWORKS[name]()
    logits = layers.Dense(num_classes, name="logits")
    return keras.Sequential(
        [keras.Input(input_shape), *hidden, logits], name=name
    )


def bilevel(network, num_shards, num_validation_shards=1, **options):
    """Wraps a network for Deep Bilevel Learning, where there are shards."""
    if num_shards is None:
        return network
    weighting = kb.weighting.DeepBilevel(
        num_shards, num_validation_shards=num_validation_shards
    )
    return kb.BilevelModel(network, weighting, **options)


def compiled(
    model, rate, momentum=None, loss=None, jit_compile="auto", **options
):
    """Compiles a model of logits and returns it.

    Without a momentum the optimizer is Adam, else SGD; `options` are its own.
    """
    if momentum is None:
        optimizer = keras.optimizers.Adam(rate, **options)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum, **options)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile
    )
    return model


def accuracy(model, x, y):
    """Returns the share of right classes."""
    predicted = model.predict(x, batch_size=1024, verbose=0)
    return float(np.mean(predicted.argmax(-1) == y))


def mlp():
    """One hidden layer of 256, on 28x28 images 784-256-10."""
    return [layers.Flatten(), layers.Dense(256, activation="relu")]


def cnn(batch_normalization=False):
    """Three blocks of a 3x3 convolution and pooling."""
    hidden = []
    for filters in (32, 64, 64):
        hidden.append(layers.Conv2D(filters, 3, padding="same"))
        if batch_normalization:
            hidden.append(layers.BatchNormalization())
        hidden += [layers.ReLU(), layers.MaxPooling2D(2)]
    return [*hidden, *_dense(128)]


def _dense(*units):
    dense = [layers.Dense(n, activation="relu") for n in units]
    return [layers.Flatten(), *dense]


def cnn_bn():
    """`cnn` with batch normalization before each ReLU."""
    return cnn(batch_normalization=True)


def cifarnet(filters=64):
    """The AlexNet-style network of the paper and of Zhang et al. (2017).

    Two modules of a 5x5 convolution and 3x3 max-pooling, two dense layers and
    one dropout layer. Left out: the local response normalization of each
    module, which Keras has no layer for, and the crop to 28x28.
    """
    hidden = []
    for _ in range(2):
        options = {"padding": "same", "activation": "relu"}
        hidden.append(layers.Conv2D(filters, 5, **options))
        hidden.append(layers.MaxPooling2D(3, strides=2, padding="same"))
    last = layers.Dense(192, activation="relu")
    return [*hidden, *_dense(384), layers.Dropout(0.5), last]


def small_cifarnet():
    """`cifarnet` with a quarter of the filters: an eighth of the time."""
    return cifarnet(filters=16)


def small_cnn():
    """The network of S2E's public code for CIFAR-10."""
    hidden = []
    for filters in (6, 16):
        hidden.append(layers.Conv2D(filters, 5, activation="relu"))
        hidden.append(layers.MaxPooling2D(2))
    return [*hidden, *_dense(120, 84)]


def caffe_quick():
    """Caffe's "CIFAR-10 quick": three 5x5 convolutions with pooling."""
    hidden = []
    most, mean = layers.MaxPooling2D, layers.AveragePooling2D
    for filters, pool in ((32, most), (32, mean), (64, mean)):
        hidden.append(layers.Conv2D(filters, 5, padding="same"))
        # Its first block pools before the ReLU, which is the same thing.
        hidden += [layers.ReLU(), pool(3, strides=2, padding="same")]
    return [*hidden, layers.Flatten(), layers.Dense(64)]


def lenet():
    """LeNet as in Caffe's MNIST example, on 28x28 images."""
    hidden = []
    for filters in (20, 50):
        hidden += [layers.Conv2D(filters, 5), layers.MaxPooling2D(2)]
    return [*hidden, *_dense(500)]


def four_million():
    """A wide `cnn`: some four million parameters on 32x32x3."""
    hidden = []
    for filters in (64, 128, 256):
        options = {"padding": "same", "activation": "relu"}
        hidden.append(layers.Conv2D(filters, 3, **options))
        hidden.append(layers.MaxPooling2D(2))
    return [*hidden, *_dense(880)]


def resnet20():
    """ResNet-20 of He et al. (2016) for CIFAR-10, with batch normalization."""
    x = inputs = keras.Input((None, None, 3))
    x = _normalized(x, 16)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        for first in (strides, 1, 1):
            x = _residual(x, filters, first)
    return [keras.Model(inputs, layers.GlobalAveragePooling2D()(x))]


def _residual(x, filters, strides):
    h = _normalized(x, filters, strides)
    h = _normalized(h, filters, relu=False)
    if strides > 1:
        x = _normalized(x, filters, strides, size=1, relu=False)
    return layers.ReLU()(layers.Add()([h, x]))


def _normalized(x, filters, strides=1, size=3, relu=True):
    options = {"padding": "same", "use_bias": False}
    x = layers.Conv2D(filters, size, strides, **options)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def small_inception():
    """The small Inception of Zhang et al. (2017), with one dropout layer.

    Left out: the crop to 28x28.
    """
    x = inputs = keras.Input((None, None, 3))
    x = _normalized(x, 96)
    for modules, down in (
        (((32, 32), (32, 48)), 80),
        (((112, 48), (96, 64), (80, 80), (48, 96)), 96),
        (((176, 160), (176, 160)), None),
    ):
        for narrow, wide in modules:
            parts = [_normalized(x, narrow, size=1), _normalized(x, wide)]
            x = layers.Concatenate()(parts)
        if down:
            pooled = layers.MaxPooling2D(3, strides=2, padding="same")(x)
            x = layers.Concatenate()([_normalized(x, down, 2), pooled])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return [keras.Model(inputs, x)]


def preact_resnet18():
    """ResNet-18 with activations first of He et al. (2016), for CIFAR-10."""
    options = {"padding": "same", "use_bias": False}
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(64, 3, **options)(inputs)
    for filters, strides in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for first in (strides, 1):
            h = _activated(x)
            if x.shape[-1] != filters:
                x = layers.Conv2D(filters, 1, first, **options)(h)
            h = layers.Conv2D(filters, 3, first, **options)(h)
            h = layers.Conv2D(filters, 3, **options)(_activated(h))
            x = layers.Add()([x, h])
    x = layers.GlobalAveragePooling2D()(_activated(x))
    return [keras.Model(inputs, x)]


def _activated(x):
    # The momentum that its public implementations have.
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def mobilenet_v2():
    """MobileNetV2 of keras.applications."""
    return [
        keras.applications.MobileNetV2(
            (None, None, 3), include_top=False, weights=None, pooling="avg"
        )
    ]


_ALL = (
    mlp,
    cnn,
    cnn_bn,
    cifarnet,
    small_cifarnet,
    small_cnn,
    caffe_quick,
    lenet,
    four_million,
    resnet20,
    small_inception,
    preact_resnet18,
    mobilenet_v2,
)
NETWORKS = {network.__name__: network for network in _ALL}
