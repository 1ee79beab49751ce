"""Writes a `.keras` file of this version for each thing that can be saved.

    python -m tests.saved.write

writes to `tests/saved/<major.minor>`, beside them what the models predicted
and said of themselves. Files that are there stay as they are: they are worth
something because an older version wrote them. Run it before a release, with the
oldest Keras that is allowed: an older Keras does not read the files of
a newer one.
"""

import json
import pathlib
import zipfile

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_bilevel as kb

FOLDER = pathlib.Path(__file__).parent
VERSION = "0.1"
INPUTS, CLASSES, EPOCHS = 3, 2, 4


def network(units=CLASSES):
    return keras.Sequential(
        [
            keras.Input((INPUTS,)),
            layers.Dense(4, activation="tanh"),
            layers.Dense(units),
        ]
    )


def arrays(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, INPUTS)).astype("float32")
    return x, rng.integers(0, CLASSES, count)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model):
    # A momentum that is lost would show in the next step.
    optimizer = keras.optimizers.SGD(0.2, momentum=0.9)
    model.compile(optimizer, cross_entropy())
    return model


def deep_bilevel():
    weighting = kb.weighting.DeepBilevel(
        4,
        num_validation_shards=2,
        mu=0.1,
        lambda_=2.0,
        l1_normalize=False,
        per_layer=True,
        same_dropout=True,
    )
    return compiled(kb.BilevelModel(network(), weighting, stratify_by=None))


def exact():
    weighting = kb.weighting.DeepBilevel(4, solver="exact")
    return compiled(kb.BilevelModel(network(), weighting))


def soseleto():
    weighting = kb.weighting.Soseleto(
        14, alpha_lr=2.0, initial=0.8, clip=(0.1, 0.9)
    )
    return compiled(kb.BilevelModel(network(), weighting))


def learning_to_reweight():
    weighting = kb.weighting.LearningToReweight()
    return compiled(kb.BilevelModel(network(), weighting))


def meta_weight_net():
    weighting = kb.weighting.MetaWeightNet(hidden=5, meta_lr=20.0)
    return compiled(kb.BilevelModel(network(), weighting))


def separate_validation():
    weighting = kb.weighting.DeepBilevel(4)
    return compiled(
        kb.BilevelModel(
            network(), weighting, rare="drop", validation_ratio=0.25
        )
    )


def pair():
    hidden = layers.Dense(4, activation="tanh")
    target, source = keras.Input((INPUTS,)), keras.Input((INPUTS,))
    model = kb.BilevelModel(
        keras.Model(target, layers.Dense(CLASSES)(hidden(target))),
        kb.weighting.Soseleto(14, alpha_lr=2.0, update_weights_first=True),
        source_model=keras.Model(source, layers.Dense(1)(hidden(source))),
        source_loss="mse",
    )
    return compiled(model)


def selection(rule, schedule, networks=2, **options):
    return compiled(
        kb.SelectionModel(
            [network() for _ in range(networks)], rule, schedule, **options
        )
    )


CASES = {
    "deep_bilevel": deep_bilevel,
    "deep_bilevel_exact": exact,
    "soseleto": soseleto,
    "learning_to_reweight": learning_to_reweight,
    "meta_weight_net": meta_weight_net,
    "separate_validation": separate_validation,
    "pair": pair,
    "self_paced_constant": lambda: selection(
        kb.selection.SelfPaced(), kb.schedules.ConstantSchedule(0.3), 1
    ),
    "co_teaching": lambda: selection(
        kb.selection.CoTeaching(),
        kb.schedules.CoTeachingSchedule(0.5, c=2, t_k=3),
        predict_with="mean",
    ),
    "co_teaching_plus_piecewise": lambda: selection(
        kb.selection.CoTeachingPlus(warm_up=2),
        kb.schedules.PiecewiseSchedule([1.0, 0.9, 0.5, 0.7]),
        select_per_replica=True,
    ),
    "class_balanced_co_teaching": lambda: selection(
        kb.selection.ClassBalancedCoTeaching(),
        kb.schedules.ConstantSchedule(0.5),
    ),
    "decoupling": lambda: selection(kb.selection.Decoupling(), None),
    "early_learning": lambda: selection(
        kb.selection.EarlyLearning(beta=0.5, strength=2.0, num_examples=14),
        kb.schedules.ConstantSchedule(0.2),
        1,
    ),
    "s2e": lambda: selection(
        kb.selection.CoTeaching(),
        kb.schedules.S2ESchedule(
            [0.1, 0.2, 0.3, 0.4],
            np.linspace(0.1, 0.9, 16).reshape(4, 4),
            EPOCHS,
            scales=(1.0, 0.6, 0.4, 2.0),
        ),
    ),
    "s2e_shared": lambda: selection(
        kb.selection.SelfPaced(),
        kb.schedules.S2ESchedule(
            [0.25] * 4, [0.6, 0.4, 0.5, 0.3], EPOCHS, shared=True
        ),
        1,
    ),
    "rbf": lambda: selection(
        kb.selection.SelfPaced(),
        kb.schedules.RBFSchedule([-0.5, 0.1], [0.6, 0.9], [0.2, 0.3], EPOCHS),
        1,
    ),
    "mlp": lambda: selection(
        kb.selection.SelfPaced(),
        kb.schedules.MLPSchedule([-0.3, -0.2], [5.0, 1.0], [-2.0, 0.5], EPOCHS),
        1,
    ),
    "random_monotone": lambda: selection(
        kb.selection.CoTeaching(),
        kb.schedules.RandomMonotoneSchedule(EPOCHS, seed=5, num_knots=3),
    ),
}


def batch_for(model):
    """Returns the one batch that a model of `CASES` is trained on."""
    x, y = arrays(12, seed=0)
    if isinstance(model, kb.SelectionModel):
        if model.rule.remembers:
            return x, y, None, np.arange(1, 13)
        return x, y
    if isinstance(model.weighting, kb.weighting.ShardWeighting):
        return x, y
    source_y = y if model.source_model is None else x[:, :1]
    # Two of Soseleto's 14 examples are never seen.
    return (x, source_y, np.arange(1, 13)), arrays(6, seed=1)


def step(model):
    """Takes one step, in the last epoch: schedules keep less than all then."""
    batches = tf.data.Dataset.from_tensors(batch_for(model))
    model.fit(batches, initial_epoch=EPOCHS - 1, epochs=EPOCHS, verbose=0)


def part(thing):
    """Returns class and config of a part of a model, as JSON has them."""
    config = json.loads(json.dumps(thing.get_config()))
    return {"class": type(thing).__name__, "config": config}


def described(model):
    """Returns what the package itself keeps of a model, ready for JSON."""
    found = {"class": type(model).__name__}
    if isinstance(model, kb.SelectionModel):
        found["rule"] = part(model.rule)
        found["schedule"] = part(model.schedule)
        found["shares"] = [float(model.schedule(t)) for t in range(EPOCHS)]
        found["predict_with"] = model.predict_with
        found["select_per_replica"] = model.select_per_replica
        if model.rule.remembers:
            found["targets"] = model.rule.targets.tolist()
        return found
    found["weighting"] = part(model.weighting)
    found["stratify_by"] = model.stratify_by
    found["source_loss"] = model.source_loss
    found["rare"] = model.rare
    found["validation_ratio"] = model.validation_ratio
    if isinstance(model.weighting, kb.weighting.Soseleto):
        for name in ("example_weights", "example_scores"):
            found[name] = getattr(model.weighting, name).tolist()
    if isinstance(model.weighting, kb.weighting.MetaWeightNet):
        some = model.weighting.weight_of([0.0, 0.5, 1.0, 3.0])
        found["weights_of_losses"] = some.numpy().tolist()
    return found


def predictions(model):
    """Returns what all networks say of some inputs, as JSON has it."""
    networks = [model]
    if isinstance(model, kb.SelectionModel):
        networks += model.models
    elif model.source_model is not None:
        networks.append(model.source_model)
    x, _ = arrays(5, seed=2)
    return [n(x).numpy().tolist() for n in networks]


def write(name, folder):
    """Writes one model, and returns what to expect of it."""
    keras.utils.set_random_seed(1)
    model = CASES[name]()
    path = folder / f"{name}.keras"
    step(model)
    model.save(path)
    compress(path)
    expected = {**described(model), "predictions": predictions(model)}
    step(model)
    return {**expected, "after_a_step": predictions(model)}


def compress(path):
    """Packs the parts of a file, which Keras leaves as large as they are."""
    with zipfile.ZipFile(path) as file:
        parts = {entry: file.read(entry) for entry in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)


def main():
    folder = FOLDER / VERSION
    folder.mkdir(exist_ok=True)
    file = folder / "expected.json"
    expected = json.loads(file.read_text()) if file.exists() else {}
    for name in CASES.keys() - expected.keys():
        expected[name] = write(name, folder)
    lines = [f'"{name}": {json.dumps(expected[name])}' for name in CASES]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
