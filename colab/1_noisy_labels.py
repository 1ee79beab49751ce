"""
Title: Learn from noisy labels without a clean one
Author: keras_bilevel
Date created: 2026/11/25
Last modified: 2026/11/25
Description: Train on half wrong labels by Deep Bilevel Learning, in two lines.
Accelerator: GPU
"""

"""
## What goes wrong

Labels are often wrong: people are tired, classes look alike, labels come from
a search engine. A network first learns what most examples of a class have in
common. Then it learns the wrong labels by heart, one by one, and gets worse on
new data.

*Deep Bilevel Learning* ([Jenni & Favaro, 2018](https://arxiv.org/abs/1809.01465))
needs no clean label to prevent that. It cuts each batch into small *shards*
with the same label counts. The gradient of one shard judges the others: a
shard counts as much as its gradient agrees with the judge's. What only a few
examples explain, such as their wrong labels, does not add up.
"""

"""shell
python -c "import keras_bilevel" 2>/dev/null \\
    || pip install -q "keras-bilevel[notebooks]"
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # Or "jax".

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_bilevel as kb

# A smaller run, for computers without a GPU.
SMALL = bool(os.environ.get("KERAS_BILEVEL_SMALL"))
EPOCHS = 40 if SMALL else 100
keras.utils.set_random_seed(0)

"""
## Data with wrong labels

1,797 images of handwritten digits, 8 x 8 pixels each. We make half of the
training labels wrong: each of them becomes one of the nine other digits. The
labels of the test data stay right.
"""

images, labels = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
x_train, x_test, y_true, y_test = train_test_split(
    images, labels, test_size=0.3, stratify=labels, random_state=0
)
y_train, is_wrong = kb.data.noise.symmetric(y_true, 0.5, seed=0)
print(f"{np.mean(is_wrong):.0%} of the labels are wrong.")

figure, axes = plt.subplots(1, 8, figsize=(12, 2))
for axis, image, given, wrong in zip(axes, x_train, y_train, is_wrong):
    axis.imshow(image.reshape(8, 8), cmap="gray")
    axis.set_title(f"given {given}", color="tab:red" if wrong else "black")
    axis.axis("off")
plt.show()

"""
## The usual way

A network of two hidden layers, trained by SGD. We look at the test accuracy
after every epoch. Nobody without clean data could.
"""


def make_network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def train(model, callbacks=None):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model.fit(
        x_train,
        y_train,
        batch_size=128,
        epochs=EPOCHS,
        validation_data=(x_test, y_test),
        callbacks=callbacks,
        verbose=0,
    )


sgd = train(make_network())

"""
## Deep Bilevel Learning

Two lines change: the network goes into a `kb.BilevelModel`, with a weighting.
`fit` makes the shards by itself. A batch of 128 examples in 32 shards has 4
examples a shard.

**How to choose.** The smaller the shards, the less is learnt by heart, and the
smaller the learning rate has to be. 4 to 16 examples a shard are a good start.
"""

model = kb.BilevelModel(
    make_network(), weighting=kb.weighting.DeepBilevel(num_shards=32)
)
bilevel = train(model)

"""
## What came out
"""

figure, axis = plt.subplots(figsize=(8, 4.5))
for name, history in (("SGD", sgd), ("Deep Bilevel Learning", bilevel)):
    axis.plot(history.history["val_accuracy"], label=f"{name}: new data")
axis.set_xlabel("epoch")
axis.set_ylabel("accuracy on clean test data")
axis.set_ylim(0, 1)
axis.grid(alpha=0.3)
axis.legend()
plt.show()

for name, history in (("SGD", sgd), ("Deep Bilevel Learning", bilevel)):
    last = history.history["val_accuracy"][-1]
    print(f"{name}: {last:.1%} of new images are right after {EPOCHS} epochs.")

"""
## The network is yours

`model.model` is the network that you passed, with better weights. `predict`,
`evaluate`, `save` and `export` work as with any Keras model.
"""

print(model.model.predict(x_test[:3], verbose=0).argmax(axis=1), y_test[:3])

"""
## Labels of people

*CIFAR-10N* ([Wei et al., 2022](https://arxiv.org/abs/2110.12088)) has labels
that paid workers gave to the images of CIFAR-10. Of the set `worse_label` 40 %
are wrong, and not at random: cats are taken for dogs. This part runs where
`KERAS_BILEVEL_DATA` names a folder with CIFAR-10, prepared by TensorFlow
Datasets, and `cifar10n_labels.npz` lies next to that folder.
"""

DATA = os.environ.get("KERAS_BILEVEL_DATA")
if DATA:
    import tensorflow_datasets as tfds

    count, epochs = (4_000, 12) if SMALL else (20_000, 60)
    builder = tfds.builder("cifar10", data_dir=DATA)
    read = dict(batch_size=-1, as_supervised=True, shuffle_files=False)
    photos, truth = tfds.as_numpy(
        builder.as_dataset(split=f"train[:{count}]", **read)
    )
    x_test, y_test = tfds.as_numpy(
        builder.as_dataset(split="test[:2000]", **read)
    )
    people = np.load(os.path.join(os.path.dirname(DATA), "cifar10n_labels.npz"))
    y_train = people["worse_label"][people["tfds_order"][:count]].astype(
        "int64"
    )
    classes = np.array(builder.info.features["label"].names)
    x_train, EPOCHS = photos, epochs
    print(f"{np.mean(y_train != truth):.0%} of {count} labels are wrong.")

    def make_network():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Rescaling(1 / 127.5, offset=-1),
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(64, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )

    people_sgd = train(make_network())
    model = kb.BilevelModel(
        make_network(), weighting=kb.weighting.DeepBilevel(num_shards=8)
    )
    examples = kb.callbacks.ExampleHistory()
    people_bilevel = train(model, callbacks=[examples])
    for name, history in (("SGD", people_sgd), ("Bilevel", people_bilevel)):
        curve = history.history["val_accuracy"]
        print(f"{name}: {curve[-1]:.1%} at the end, {max(curve):.1%} at best.")
    sheet = kb.report.contact_sheet(
        examples, photos, y_train, class_names=classes
    )
    display(sheet)  # noqa: F821, of a notebook
else:
    print("KERAS_BILEVEL_DATA is not set: no labels of people.")

"""
## Where to go from here

- *Find and mend the wrong labels*: the next notebook.
- Some labels are known to be right, or you have a small target set:
  `kb.weighting.Soseleto`.
- Several devices: the last notebook.
"""
