"""Label noise, and pixel noise, of the papers' experiments.

All functions but `random_confusion_matrix` return a noisy copy, and a mask that
is `True` where it differs from what was given. The same seed gives the same
result.
"""

import keras
import numpy as np

from keras_bilevel.checks import check_integer
from keras_bilevel.checks import check_probabilities
from keras_bilevel.checks import check_share
from keras_bilevel.checks import wrong
from keras_bilevel.checks import wrong_argument
from keras_bilevel.data.epochs import NOISE
from keras_bilevel.data.epochs import fixed_seed
from keras_bilevel.data.epochs import generator
from keras_bilevel.data.labels import is_integer_classes
from keras_bilevel.data.labels import read_class_ids


def symmetric(labels, fraction, num_classes=None, *, exact=True, seed=None):
    """Replaces labels by other classes, drawn uniformly.

    Args:
        labels: Integer array of shape `(n,)` or `(n, 1)`, or one-hot array of
            shape `(n, num_classes)`.
        fraction: Float in `[0, 1]`, the share of labels to replace.
        num_classes: Integer. Defaults to `None`: the width of one-hot
            labels, or the largest label plus one. If labels do not start at 0,
            such as -1 and 1, the classes are the labels that occur.
        exact: Boolean. `True` replaces exactly `round(fraction * n_c)` of the
            `n_c` labels of each class, as in the paper; `False` replaces each
            label independently with probability `fraction`. Defaults to
            `True`.
        seed: Non-negative integer. `None` draws one, see
            `stratified_batches`. Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`: the noisy labels in the shape and dtype of
        `labels`, and a boolean array of shape `(n,)`.

    Raises:
        ValueError: If `fraction` is outside of `[0, 1]` or `labels` are
            neither integers nor one-hot.

    Example:

    >>> y = np.zeros(10, "int64")
    >>> noisy, mask = kb.data.noise.symmetric(y, 0.4, 10, seed=0)
    >>> int(mask.sum())
    4

    Reference:
        [Deep Bilevel Learning](https://arxiv.org/abs/1809.01465)
        (Jenni and Favaro, 2018), section 5.3.
    """
    old, names = _read(labels, num_classes)
    rng = generator(fixed_seed(seed), NOISE)
    chosen = _choose(old, fraction, exact, rng)
    shift = rng.integers(1, len(names), size=len(old))
    return _write(labels, old, (old + chosen * shift) % len(names), names)


def pair_flip(labels, fraction, num_classes=None, *, exact=True, seed=None):
    """Replaces labels by the next class, the last class by the first.

    Args:
        labels: Integer array of shape `(n,)` or `(n, 1)`, or one-hot array of
            shape `(n, num_classes)`.
        fraction: Float in `[0, 1]`, the share of labels to replace.
        num_classes: Integer. Defaults to `None`: the width of one-hot
            labels, or the largest label plus one. If labels do not start at 0,
            such as -1 and 1, the classes are the labels that occur.
        exact: Boolean. `True` replaces exactly `round(fraction * n_c)` of the
            `n_c` labels of each class, `False` each label independently with
            probability `fraction`. Defaults to `True`.
        seed: Non-negative integer. `None` draws one. Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`, see `symmetric`.

    Example:

    >>> kb.data.noise.pair_flip(np.array([0, 1, 2]), 1.0, seed=0)[0]
    array([1, 2, 0])

    Reference:
        [Co-teaching](https://arxiv.org/abs/1804.06872) (Han et al., 2018),
        section 4.
    """
    old, names = _read(labels, num_classes)
    chosen = _choose(old, fraction, exact, generator(fixed_seed(seed), NOISE))
    return _write(labels, old, (old + chosen) % len(names), names)


def uniform(labels, num_classes=None, *, seed=None):
    """Replaces all labels by classes drawn uniformly.

    About one in `num_classes` labels stays right by chance.

    Args:
        labels: Integer array of shape `(n,)` or `(n, 1)`, or one-hot array of
            shape `(n, num_classes)`.
        num_classes: Integer. Defaults to `None`: the width of one-hot
            labels, or the largest label plus one. If labels do not start at 0,
            such as -1 and 1, the classes are the labels that occur.
        seed: Non-negative integer. `None` draws one. Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`, see `symmetric`.

    Example:

    >>> y = np.zeros(1000, "int64")
    >>> noisy, mask = kb.data.noise.uniform(y, num_classes=10)
    >>> bool(0.8 < mask.mean() < 1.0)
    True
    """
    old, names = _read(labels, num_classes)
    rng = generator(fixed_seed(seed), NOISE)
    new = rng.integers(len(names), size=len(old))
    return _write(labels, old, new, names)


def confusion(labels, matrix, *, seed=None):
    """Draws each label from its class's row of a confusion matrix.

    Args:
        labels: Integer array of shape `(n,)` or `(n, 1)`, or one-hot array of
            shape `(n, num_classes)`.
        matrix: Float array of shape `(num_classes, num_classes)`: row `i` has
            the probabilities of the classes that replace label `i`.
        seed: Non-negative integer. `None` draws one. Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`, see `symmetric`.

    Raises:
        ValueError: If `matrix` is not square, has negative entries or rows
            that do not sum to 1.

    Example:

    >>> matrix = [[1.0, 0.0], [1.0, 0.0]]
    >>> kb.data.noise.confusion(np.array([0, 1, 1]), matrix)[0]
    array([0, 0, 0])

    Reference:
        [SOSELETO](https://arxiv.org/abs/1805.09622)
        (Litany and Freedman, 2018), section 4.2.
    """
    matrix = check_probabilities("matrix", matrix, square=True, atol=1e-5)
    matrix /= matrix.sum(axis=1, keepdims=True)
    old, names = _read(labels, len(matrix))
    rng = generator(fixed_seed(seed), NOISE)
    new = old.copy()
    for label, row in enumerate(matrix):
        members = np.flatnonzero(old == label)
        new[members] = rng.choice(len(matrix), size=len(members), p=row)
    return _write(labels, old, new, names)


def random_confusion_matrix(num_classes, fraction, seed=None):
    """A confusion matrix with random mistakes.

    The diagonal is `1 - fraction`. The rest of each row is spread over the
    other classes by a draw from the uniform Dirichlet distribution (the paper
    says "chosen randomly").

    Args:
        num_classes: Integer, at least 2.
        fraction: Float in `[0, 1]`, the noise level.
        seed: Non-negative integer. `None` draws one. Defaults to `None`.

    Returns:
        Float array of shape `(num_classes, num_classes)`, its rows summing
        to 1. Use it with `confusion`.

    Example:

    >>> matrix = kb.data.noise.random_confusion_matrix(10, 0.4, seed=0)
    >>> bool(np.allclose(np.diag(matrix), 0.6))
    True

    Reference:
        [SOSELETO](https://arxiv.org/abs/1805.09622)
        (Litany and Freedman, 2018), section 4.2.
    """
    check_share("fraction", fraction)
    check_integer("num_classes", num_classes, 2)
    rng = generator(fixed_seed(seed), NOISE)
    others = rng.dirichlet(np.ones(num_classes - 1), size=num_classes)
    matrix = np.full((num_classes, num_classes), 1.0 - fraction)
    matrix[~np.eye(num_classes, dtype=bool)] = fraction * others.ravel()
    return matrix


def pixel_permutation(images, *, per_image=True, seed=None):
    """Shuffles the pixels of images; the channels of a pixel stay together.

    Args:
        images: Array of shape `(n, height, width)` or
            `(n, height, width, channels)`.
        per_image: Boolean. `True` permutes each image in a different way,
            `False` all images in the same way. Defaults to `True`.
        seed: Non-negative integer. `None` draws one. Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`: the images in the shape and dtype of
        `images`, and a boolean array of shape `(n,)`, `True` where an image
        changed.

    Raises:
        ValueError: If `images` have another shape.

    Example:

    >>> x = np.random.rand(4, 8, 8, 3)
    >>> noisy, mask = kb.data.noise.pixel_permutation(x, seed=0)
    >>> noisy.shape
    (4, 8, 8, 3)

    Reference:
        [Deep Bilevel Learning](https://arxiv.org/abs/1809.01465)
        (Jenni and Favaro, 2018), section 5.2 and Table 2.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4):
        raise wrong(
            "argument `images`",
            "shape (n, height, width) or (n, height, width, channels)",
            f"images.shape={images.shape}",
        )
    rng = generator(fixed_seed(seed), NOISE)
    num_pixels = images.shape[1] * images.shape[2]
    pixels = images.reshape(len(images), num_pixels, -1)
    if per_image:
        noisy = np.empty_like(pixels)
        for i, image in enumerate(pixels):
            noisy[i] = image[rng.permutation(num_pixels)]
    else:
        noisy = pixels[:, rng.permutation(num_pixels)]
    changed = np.any(noisy != pixels, axis=(1, 2))
    return noisy.reshape(images.shape), changed


def predicted(model, x, labels, *, batch_size=32, seed=None):
    """Replaces all labels by the predictions of a network.

    The network runs in training mode, with dropout. So it makes more mistakes,
    which are of a kind that people make too. Its variables, such as the moving
    statistics of `BatchNormalization`, are left as they were.

    Args:
        model: A Keras model with outputs of shape `(n, num_classes)`.
        x: Inputs of the model, an array or a structure of arrays of shape
            `(n, ...)`.
        labels: Integer array of shape `(n,)` or `(n, 1)`, or one-hot array of
            shape `(n, num_classes)`.
        batch_size: Integer, examples per forward pass. Defaults to `32`.
        seed: Non-negative integer, for the dropout of layers that have a
            `keras.random.SeedGenerator`, as Keras' own do. `None` draws one.
            Defaults to `None`.

    Returns:
        A tuple `(noisy, mask)`, see `symmetric`.

    Raises:
        ValueError: If the outputs of `model` have another shape, or `labels`
            are neither integers nor one-hot.

    Example:

    ```python
    noisy, mask = kb.data.noise.predicted(pretrained, x, y, seed=0)
    mask.mean()  # The noise level.
    ```

    Reference:
        [Deep Bilevel Learning](https://arxiv.org/abs/1809.01465)
        (Jenni and Favaro, 2018), section 5.3 and Table 4.
    """
    num_examples = len(read_class_ids("labels", labels))
    inputs = keras.tree.map_structure(np.asarray, keras.tree.lists_to_tuples(x))
    if not model.built:
        model(keras.tree.map_structure(lambda array: array[:1], inputs))
    rng = generator(fixed_seed(seed), NOISE)
    state = [(v, v.numpy()) for v in model.non_trainable_variables]
    try:
        outputs = _training_outputs(model, inputs, batch_size, rng)
    finally:
        for variable, value in state:
            variable.assign(value)
    if (
        outputs.ndim != 2
        or outputs.shape[1] < 2
        or len(outputs) != num_examples
    ):
        raise wrong(
            "argument `model`",
            f"one output of shape ({num_examples}, num_classes) for the "
            "inputs given",
            f"outputs of shape {outputs.shape}",
        )
    old, names = _read(labels, outputs.shape[1])
    return _write(labels, old, outputs.argmax(axis=-1), names)


class _InTraining(keras.Model):
    """Calls a network as in training."""

    def __init__(self, network):
        # Keras would make a name of that of the class, which begins with `_`.
        super().__init__(name="in_training")
        self.network = network

    def call(self, inputs):
        return self.network(inputs, training=True)


def _training_outputs(model, inputs, batch_size, rng):
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state":
            variable.assign(rng.integers(2**31, size=variable.shape))
    return _InTraining(model).predict(inputs, batch_size, verbose=0)


_ONE_CLASS = "Pass it where the labels do not have all classes."


def _read(labels, num_classes):
    """The labels as indices of a list of classes, and that list."""
    labels = np.asarray(labels)
    if not labels.size:
        raise wrong("argument `labels`", "at least one label", "none")
    classes = read_class_ids("labels", labels)
    if not is_integer_classes(labels):
        num_classes = _check_width(labels.shape[1], num_classes)
    elif num_classes is None:
        if classes.min() != 0 and labels.dtype.kind != "b":
            names, places = np.unique(classes, return_inverse=True)
            num_classes = len(names)
            check_integer("num_classes", num_classes, 2, _ONE_CLASS)
            return places, names
        num_classes = int(classes.max()) + 1
    check_integer("num_classes", num_classes, 2, _ONE_CLASS)
    if classes.min() < 0 or classes.max() >= num_classes:
        raise wrong(
            "argument `labels`",
            f"classes in [0, {num_classes})",
            f"classes from {classes.min()} to {classes.max()}",
        )
    return classes, np.arange(num_classes)


def _check_width(width, num_classes):
    if num_classes not in (None, width):
        raise wrong_argument(
            "num_classes",
            num_classes,
            f"the width of the one-hot labels, {width}",
        )
    return width


def _write(labels, old, new, names):
    """The new classes in the form of `labels`, and where they changed."""
    labels = np.asarray(labels)
    if is_integer_classes(labels):
        highest = 1 if labels.dtype.kind == "b" else np.iinfo(labels.dtype).max
        if names.max() > highest:
            raise wrong(
                "argument `labels`",
                f"a dtype that holds class {names.max()}",
                f"dtype {labels.dtype}",
                'Pass `labels.astype("int64")`.',
            )
        noisy = names[new].reshape(labels.shape).astype(labels.dtype)
    else:
        noisy = np.zeros_like(labels)
        noisy[np.arange(len(new)), new] = 1
    return noisy, new != old


def _choose(classes, fraction, exact, rng):
    """Boolean array of shape `(n,)`: which labels to replace."""
    check_share("fraction", fraction)
    if not exact:
        return rng.random(len(classes)) < fraction
    chosen = np.zeros(len(classes), bool)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        count = round(fraction * len(members))
        chosen[rng.choice(members, size=count, replace=False)] = True
    return chosen
