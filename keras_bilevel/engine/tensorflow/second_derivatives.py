"""Second derivatives that TensorFlow lacks, treats as zero, or is slow at.

Double back-propagation needs the derivative of each operation's gradient. In
TensorFlow 2.18 to 2.21 that of a bilinear resize is treated as zero, so that
alignments are silently wrong. Those of the other resizes and of softsign are
missing, which is an error. That of max-pooling takes longer than a convolution.
They are registered here, globally for TensorFlow; what is missing, unless a
newer version has it.
"""

import math

import tensorflow as tf

from keras_bilevel import keras_private

# The gradient of a resize is linear, and its derivative is the resize itself.
_RESIZES = {
    "ResizeBicubicGrad": (
        tf.raw_ops.ResizeBicubic,
        ("align_corners", "half_pixel_centers"),
    ),
    "ResizeNearestNeighborGrad": (
        tf.raw_ops.ResizeNearestNeighbor,
        ("align_corners", "half_pixel_centers"),
    ),
    "ScaleAndTranslateGrad": (
        tf.raw_ops.ScaleAndTranslate,
        ("kernel_type", "antialias"),
    ),
}


def register():
    """Registers the derivatives that are missing."""
    for name, (resize, attributes) in _RESIZES.items():
        if _is_missing(name):
            tf.RegisterGradient(name)(_of_resize(resize, attributes))
    if _is_missing("SoftsignGrad"):
        tf.RegisterGradient("SoftsignGrad")(_of_softsign)
    if keras_private.registered_gradient("ResizeBilinearGrad") is None:
        # It is registered as `None`, for which eager tapes keep no inputs. So
        # the gradient of the resize itself is replaced.
        keras_private.unregister_gradient("ResizeBilinear")
        tf.RegisterGradient("ResizeBilinear")(_bilinear_gradient)
    slow = keras_private.registered_gradient("MaxPoolGrad")
    keras_private.unregister_gradient("MaxPoolGrad")
    tf.RegisterGradient("MaxPoolGrad")(_of_max_pool(slow))


def _is_missing(name):
    try:
        keras_private.registered_gradient(name)
    except LookupError:
        return True
    return False


def _of_resize(resize, attributes):
    def gradient(op, change):
        # Input 1 is a size or the image. Only ScaleAndTranslate has more.
        further = dict(zip(("scale", "translation"), op.inputs[2:]))
        resized = resize(
            images=change,
            size=tf.shape(op.inputs[0])[1:3],
            **further,
            **{name: op.get_attr(name) for name in attributes},
        )
        rest = [None] * (len(op.inputs) - 1)
        return [tf.cast(resized, op.inputs[0].dtype), *rest]

    return gradient


def _of_softsign(op, change):
    # f(x) = x / (1 + |x|), f'(x) = 1 / (1 + |x|)^2.
    gradients, features = op.inputs
    slope = 1.0 / tf.square(1.0 + tf.abs(features))
    curvature = -2.0 * tf.sign(features) * slope / (1.0 + tf.abs(features))
    return [change * slope, change * gradients * curvature]


def _bilinear_gradient(op, gradients):
    image = op.inputs[0]
    options = {
        name: op.get_attr(name)
        for name in ("align_corners", "half_pixel_centers")
    }

    @tf.custom_gradient
    def transposed(gradients):
        size = tf.shape(gradients)[1:3]

        def derivative(change):
            # An ordinary resize, so it can be differentiated again.
            return tf.raw_ops.ResizeBilinear(
                images=change, size=size, **options
            )

        value = tf.raw_ops.ResizeBilinearGrad(
            grads=gradients, original_image=image, **options
        )
        return value, derivative

    return [transposed(gradients), None]


def _of_max_pool(slow):
    """Returns the derivative of the gradient of a max-pooling.

    Args:
        slow: TensorFlow's own, for windows that overlap or are padded. In a
            graph it may write its result over its input while it still reads
            that, if both have one shape: where padding keeps the size.
    """

    def gradient(op, change):
        images, pooled, _ = op.inputs
        options = {
            name: op.get_attr(name)
            for name in ("ksize", "strides", "padding", "data_format")
        }
        if not _are_tiles(images.shape, **options):
            if list(options["strides"]) == [1, 1, 1, 1]:
                return [None, None, _of_padded(images, pooled, change, options)]
            return slow(op, change)
        # The average of a window's changes, of which all but that of its
        # largest pixel are multiplied by 0.
        area = math.prod(options["ksize"])
        is_largest = tf.raw_ops.MaxPoolGrad(
            orig_input=images,
            orig_output=pooled,
            grad=tf.fill(tf.shape(pooled), tf.cast(area, pooled.dtype)),
            **options,
        )
        picked = tf.raw_ops.AvgPool(value=is_largest * change, **options)
        return [None, None, picked]

    return gradient


def _of_padded(images, pooled, change, options):
    """Does as TensorFlow's own, with images that are larger than the result."""
    padding = [(0, 0)] * 4
    if options["padding"] == b"SAME":
        padding = [((size - 1) // 2, size // 2) for size in options["ksize"]]
    least = images.dtype.min
    return tf.raw_ops.MaxPoolGradGrad(
        orig_input=tf.pad(images, padding, constant_values=least),
        orig_output=pooled,
        grad=tf.pad(change, padding),
        **{**options, "padding": "VALID"},
    )


def _are_tiles(shape, ksize, strides, padding, data_format):
    """Returns whether windows neither overlap nor are padded."""
    if list(ksize) != list(strides) or data_format != b"NHWC":
        return False
    is_cut = padding == b"VALID"
    return is_cut or all(
        size == 1 or (length is not None and length % size == 0)
        for length, size in zip(shape, ksize)
    )
