"""
Title: Find and mend wrong labels
Author: keras_bilevel
Date created: 2026/11/25
Last modified: 2026/11/25
Description: Rank suspect labels with and without clean data, then train again.
Accelerator: GPU
"""

"""
## Which labels are wrong?

A network that does not learn wrong labels by heart keeps doubting them. So the
probability that it gives to each label, averaged over training, tells which
labels to look at. A few clean examples tell it from another side: each training
example is judged by what its gradient does for them.

This notebook ranks the labels in both ways, looks at the most suspect ones,
takes them out and trains again.
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
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import keras_bilevel as kb

# A smaller run, for computers without a GPU.
SMALL = bool(os.environ.get("KERAS_BILEVEL_SMALL"))
EPOCHS = 30 if SMALL else 80
keras.utils.set_random_seed(0)

"""
## Data with wrong labels

Handwritten digits of 8 x 8 pixels. 30 % of the training labels are wrong. 100
examples are set aside, with labels that were checked.
"""

images, labels = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
x_rest, x_test, y_rest, y_test = train_test_split(
    images, labels, test_size=0.3, stratify=labels, random_state=0
)
x_train, x_clean, y_true, y_clean = train_test_split(
    x_rest, y_rest, test_size=100, stratify=y_rest, random_state=0
)
y_train, is_wrong = kb.data.noise.symmetric(y_true, 0.3, seed=0)
print(f"{len(x_train)} examples, {is_wrong.sum()} of them with a wrong label.")


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


def compiled(model, learning_rate=0.05):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


"""
## Without clean data: a history

`ExampleHistory` is a callback. It keeps the probability of each given label
over all steps, and costs no extra pass over the data.
"""

model = compiled(
    kb.BilevelModel(
        make_network(), weighting=kb.weighting.DeepBilevel(num_shards=16)
    )
)
history = kb.callbacks.ExampleHistory()
model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=EPOCHS,
    verbose=0,
    callbacks=[history],
)

"""
The most suspect labels first. `is_wrong` is what nobody knows in practice.
"""

table = kb.report.suspects(history, y_train)
table["is wrong"] = is_wrong[table["id"]]
print(table.head(10).to_string(index=False))

"""
The scores of all labels, right and wrong.
"""

scores = history.example_scores
plt.figure(figsize=(8, 3.5))
plt.hist(
    [scores[~is_wrong], scores[is_wrong]],
    bins=25,
    label=["right label", "wrong label"],
)
plt.xlabel("probability of the given label, mean over training")
plt.ylabel("examples")
plt.legend()
plt.show()

"""
And how they look: the lowest scores first, then the highest ones.
"""

kb.report.contact_sheet(history, x_train.reshape(-1, 8, 8), y_train)

"""
## With some clean data: SOSELETO

*SOSELETO* ([Litany & Freedman, 2018](https://arxiv.org/abs/1805.09622)) gives
each training example a weight. It grows where the example's gradient points
the same way as that of the clean examples. Its score is the sum of these
alignments.
"""

with_clean = compiled(
    kb.BilevelModel(make_network(), weighting=kb.weighting.Soseleto())
)
with_clean.fit(
    kb.data.source_target_batches(
        (x_train, y_train), (x_clean, y_clean), source_size=128, target_size=32
    ),
    epochs=EPOCHS,
    verbose=0,
)

"""
## How good are the rankings?

The area under the ROC curve: 1 where every wrong label has a lower score than
every right one, 0.5 by chance. Your own score is welcome as well: all functions
of `kb.report` take arrays.
"""

scores = {
    "history, no clean data": history.example_scores,
    "SOSELETO, 100 clean examples": with_clean.weighting.example_scores,
}
for name, score in scores.items():
    seen = ~np.isnan(score)
    area = roc_auc_score(~is_wrong[seen], score[seen])
    print(f"{name}: {area:.3f}")

sweep = kb.report.threshold_sweep(history, is_wrong)
kb.report.plot_threshold_sweep(sweep)

"""
## Clean and train again

We leave out the 30 % with the lowest scores, and train as usual on the rest.
Whoever does not know the share of wrong labels looks at the sheet above: where
do the labels begin to look right?
"""


def accuracy_of(x, y):
    network = compiled(make_network())
    network.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)
    return network.evaluate(x_test, y_test, verbose=0)[1]


results = {"all labels": accuracy_of(x_train, y_train)}
for name, score in scores.items():
    kept = kb.report.cleaned(score, (x_train, y_train), keep=0.7)
    results[f"cleaned by {name}"] = accuracy_of(*kept)
results["true labels"] = accuracy_of(x_train, y_true)
print(pd.Series(results, name="test accuracy").round(3).to_string())

"""
## Hand it to somebody

A page with all of this, for those who know the data, and a table for a
spreadsheet.
"""

kb.report.write_html(
    history,
    "suspects.html",
    x_train.reshape(-1, 8, 8),
    y_train,
    title="Digits to look at",
)
kb.report.write_csv(history, "suspects.csv", y_train)
print(sorted(name for name in os.listdir(".") if name.startswith("suspects")))
