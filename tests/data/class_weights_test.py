"""`class_weight` is what sample weights are, for every kind of batch."""

import keras
import numpy as np
import pytest

import keras_bilevel as kb
from keras_bilevel.data.class_weights import weighted
from tests.models.tools import batch_of
from tests.models.tools import batched
from tests.models.tools import compiled
from tests.models.tools import tanh_network
from tests.models.tools import values

CLASS_WEIGHT = {0: 0.5, 2: 3.0}
WEIGHTS = np.array([0.5, 1.0, 3.0], "float32")
IDS = np.arange(4)


def weights_of(*batch, class_weight=CLASS_WEIGHT):
    dataset = weighted(batched(*batch), class_weight)
    (result,) = dataset
    if isinstance(result[0], tuple):
        result, dataset = result[0], dataset.map(lambda source, _: source)
    assert dataset.element_spec[2].shape == result[2].shape
    return result[2].numpy()


TOKENS = np.array([[0, 1, 2], [2, 2, 0], [1, 1, 1], [0, 2, 1]])
SOFT = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.2, 0.7, 0.1], [1, 0, 0]])


@pytest.mark.parametrize(
    "y, classes",
    [
        (TOKENS[:, 0], TOKENS[:, 0]),
        (TOKENS[:, :1], TOKENS[:, 0]),
        (TOKENS[:, 0].astype("float32"), TOKENS[:, 0]),
        (np.eye(3)[TOKENS[:, 0]], TOKENS[:, 0]),
        (np.eye(3, dtype=int)[TOKENS[:, 0]], TOKENS[:, 0]),
        (np.eye(3, dtype=bool)[TOKENS[:, 0]], TOKENS[:, 0]),
        (SOFT, np.array([0, 2, 1, 0])),
        (TOKENS, TOKENS),
        (TOKENS.astype("uint8"), TOKENS),
        (TOKENS.astype("float32"), TOKENS),
        (np.stack([TOKENS, TOKENS], 1), np.stack([TOKENS, TOKENS], 1)),
        (TOKENS[:, None, :, None], TOKENS[:, None]),
        (np.eye(3)[TOKENS], TOKENS),
    ],
)
def test_weights_have_the_shape_of_the_labels(y, classes):
    x = np.zeros((4, 2), "float32")
    for batch in ((x, y), (x, y, np.ones(4)), (x, y, np.ones(4), IDS)):
        result = weights_of(*batch)
        assert result.dtype == "float32"
        np.testing.assert_array_equal(result, WEIGHTS[classes])


def test_any_integers_are_classes():
    y = np.array([-1, 300, 7, 0, 301])
    result = weights_of(y, y, class_weight={300: 2, -1: 0.0, 7: 0.5})
    assert result.tolist() == [0.0, 2.0, 0.5, 1.0, 1.0]


def test_weights_of_examples_are_multiplied():
    x, w = np.zeros((4, 2)), np.array([1.0, 2.0, 0.0, 4.0])
    by_token = w[:, None] * WEIGHTS[TOKENS]
    for given in (w, w[:, None], np.repeat(w[:, None], 3, axis=1)):
        np.testing.assert_array_equal(weights_of(x, TOKENS, given), by_token)
    result = weights_of(x, TOKENS[:, 0], w[:, None])
    np.testing.assert_array_equal(result, by_token[:, :1])


def test_only_source_examples_are_weighed():
    x, y, w = np.zeros((4, 2)), TOKENS[:, 0], np.array([1.0, 2.0, 0.0, 4.0])
    for source, factor in (((x, y, IDS), 1), ((x, y, w, IDS), w)):
        dataset = weighted(batched(source, (x, y)), CLASS_WEIGHT)
        ((seen, target),) = dataset
        assert len(seen) == 4 and len(target) == 2
        np.testing.assert_array_equal(seen[2], factor * WEIGHTS[y])
        np.testing.assert_array_equal(seen[3], IDS)


def test_what_is_attached_is_found_behind_the_weights():
    x, y = batch_of(32)
    dataset = kb.data.stratified_batches((x, y), 4, 4, ids=True, seed=0)
    mapped = weighted(dataset, CLASS_WEIGHT)
    assert kb.data.epoch_counters(mapped) == kb.data.epoch_counters(dataset)
    assert mapped.cardinality() == dataset.cardinality() > 0


@pytest.mark.parametrize("class_weight", [[1.0, 2.0], {"a": 1.0}, {}, {0: "a"}])
def test_error_for_what_is_no_dictionary_of_weights(class_weight):
    with pytest.raises(ValueError, match="`class_weight`.*dict.enumerate"):
        weights_of(IDS, IDS, class_weight=class_weight)


def test_error_for_labels_that_are_no_classes():
    for y in ((IDS, IDS), {"a": IDS}):
        with pytest.raises(ValueError, match="a single output"):
            weights_of(IDS, y)
    with pytest.raises(ValueError, match=r"labels such as \[0.5 3.5\]"):
        weights_of(IDS, np.tile([0.5, 3.5], (4, 1)))


def selection_model():
    model = kb.SelectionModel(
        tanh_network(),
        rule=kb.selection.SelfPaced(),
        schedule=kb.schedules.ConstantSchedule(0.3),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def trained(make, *args, **kwargs):
    keras.utils.set_random_seed(2)
    model = make()
    model.fit(*args, epochs=2, verbose=0, shuffle=False, **kwargs)
    return values(model.weights)


def assert_same(results):
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def make_bilevel():
    return compiled(tanh_network())


def stratified(parts):
    return kb.data.stratified_batches(
        parts, 4, 4, ids=True, shuffle=False, seed=0
    )


def shuffled(parts):
    return kb.data.shuffled_batches(parts, 16, shuffle=False, seed=0)


@pytest.mark.parametrize(
    "make, batches", [(make_bilevel, stratified), (selection_model, shuffled)]
)
def test_same_training_from_arrays_and_datasets(make, batches):
    x, y = batch_of(96)
    cw = {"class_weight": CLASS_WEIGHT}
    results = [
        trained(make, x, y, batch_size=16, sample_weight=WEIGHTS[y]),
        trained(make, x, y, batch_size=16, **cw),
        trained(make, batches((x, y)), **cw),
        trained(make, batches((x, y, WEIGHTS[y]))),
    ]
    assert_same(results)
    plain = trained(make, x, y, batch_size=16)
    assert np.max(np.abs(plain[0] - results[0][0])) > 1e-3


@pytest.mark.parametrize("name", ["LearningToReweight", "Soseleto"])
def test_same_training_on_source_and_target(name):
    x, y = batch_of(64)
    weighting = getattr(kb.weighting, name)

    def make():
        args = () if name == "LearningToReweight" else (64,)
        return compiled(tanh_network(), weighting(*args))

    def pairs(*source):
        target = (x[:16], y[:16])
        return kb.data.source_target_batches(source, target, 16, 8, seed=0)

    results = [
        trained(make, pairs(x, y, WEIGHTS[y])),
        trained(make, pairs(x, y), class_weight=CLASS_WEIGHT),
    ]
    assert_same(results)
    assert np.max(np.abs(trained(make, pairs(x, y))[0] - results[0][0])) > 1e-4


@pytest.mark.parametrize("batch_size", [16, 32])
@pytest.mark.parametrize("by", ["class_weight", "sample_weight"])
def test_weights_of_tags_are_refused(by, batch_size):
    x, _ = batch_of(64)
    tags = np.random.default_rng(0).integers(0, 2, (64, 16)).astype("float32")
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16)])
    model = kb.SelectionModel(net, kb.selection.SelfPaced())
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    weights = {"class_weight": {1: 5.0}, "sample_weight": np.ones((64, 16))}
    with pytest.raises(ValueError, match="weigh examples"):
        model.fit(
            x, tags, batch_size=batch_size, verbose=0, **{by: weights[by]}
        )


def test_weights_with_last_axes_of_one_are_those_of_examples():
    x, y = batch_of(96)
    weights = np.linspace(0.0, 2.0, 96)
    found = []
    for shape in ((96,), (96, 1), (96, 1, 1)):
        keras.utils.set_random_seed(0)
        model = compiled(tanh_network())
        model.fit(
            x,
            y,
            batch_size=16,
            sample_weight=weights.reshape(shape),
            verbose=0,
        )
        found.append(values(model.trainable_variables))
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)
