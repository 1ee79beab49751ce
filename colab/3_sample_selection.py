"""
Title: Select samples, and search for the schedule
Author: keras_bilevel
Date created: 2026/11/25
Last modified: 2026/11/25
Description: Co-teaching in `model.fit`, its schedule searched with KerasTuner.
Accelerator: GPU
"""

"""
## Small losses first

A network learns what is easy before it learns wrong labels by heart. *Sample
selection* makes use of that: in epoch t it keeps only the share R(t) of each
batch, the examples with the smallest losses. In *Co-teaching* ([Han et al.,
2018](https://arxiv.org/abs/1804.06872)) two networks select for each other.

How fast should R(t) fall, and how far? *S2E* ([Yao et al.,
2020](https://arxiv.org/abs/1911.02377)) searches for the whole curve.
"""

"""shell
python -c "import keras_bilevel" 2>/dev/null \\
    || pip install -q "keras-bilevel[notebooks]"
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # Or "jax".

import keras
import keras_tuner
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_bilevel as kb

# A smaller run, for computers without a GPU.
SMALL = bool(os.environ.get("KERAS_BILEVEL_SMALL"))
EPOCHS = 20 if SMALL else 40
TRIALS = 6 if SMALL else 24
keras.utils.set_random_seed(0)

"""
## Data with wrong labels

Handwritten digits of 8 x 8 pixels, half of the labels wrong. The last part of
the training data is for choosing a schedule. Its labels are as wrong as all
others: that is enough to compare schedules.
"""

images, labels = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
x_train, x_test, y_true, y_test = train_test_split(
    images, labels, test_size=0.3, stratify=labels, random_state=0
)
y_noisy, is_wrong = kb.data.noise.symmetric(y_true, 0.5, seed=0)
x_train, x_val, y_train, y_val, is_wrong, _ = train_test_split(
    x_train, y_noisy, is_wrong, test_size=0.2, random_state=0
)


def make_network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def compiled(model):
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def co_teaching(schedule):
    # The networks need different initial weights.
    networks = [make_network(1), make_network(2)]
    return compiled(
        kb.SelectionModel(networks, kb.selection.CoTeaching(), schedule)
    )


"""
## Co-teaching with the schedule of its paper

R(t) falls to 1 - tau in some epochs and stays there. tau is the share of wrong
labels, which one has to know, or to guess.
"""

schedule = kb.schedules.CoTeachingSchedule(tau=0.5)
history = kb.callbacks.SelectionHistory()
model = co_teaching(schedule)
model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=EPOCHS,
    verbose=0,
    callbacks=[history],
)
plain = compiled(make_network(1))
plain.fit(x_train, y_train, batch_size=128, epochs=EPOCHS, verbose=0)

"""
Did it select well? *Label precision* is the share of right labels among those
that were selected.
"""

precision = kb.report.label_precision(history, is_wrong)
print(f"Label precision in the last epoch: {np.ravel(precision)[-1]:.2f}")
kb.report.plot_label_precision(history, is_wrong)
plt.show()

"""
## Search for the schedule

`S2ETuner` is a tuner of KerasTuner. Each trial draws a schedule from a
distribution p_theta over monotone curves, trains, and is judged on the noisy
validation data. Then theta makes a Newton step.
"""


def build(hyperparameters):
    schedule = kb.schedules.S2ESchedule.from_hyperparameters(
        hyperparameters, epochs=EPOCHS
    )
    return co_teaching(schedule)


tuner = kb.tuners.S2ETuner(
    build,
    objective=keras_tuner.Objective("val_accuracy", "max"),
    max_trials=TRIALS,
    seed=0,
    directory="searches",
    project_name="digits",
    overwrite=True,
)
tuner.search(
    x_train,
    y_train,
    validation_data=(x_val, y_val),
    batch_size=128,
    epochs=EPOCHS,
    verbose=0,
)
best = tuner.best_schedule(epochs=EPOCHS)

"""
The schedules that were tried, how the best value grew, and p_theta.
"""

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
tuner.plot_schedules(epochs=EPOCHS, ax=left)
tuner.plot_progress(ax=right)
plt.show()
tuner.plot_density()

"""
## What came out

A search costs as many trainings as it has trials. Where tau is known, the
schedule of Co-teaching is hard to beat.
"""

searched = co_teaching(best)
searched.fit(x_train, y_train, batch_size=128, epochs=EPOCHS, verbose=0)
for name, one in (
    ("Adam on all labels", plain),
    ("Co-teaching", model),
    (f"Co-teaching, schedule of {TRIALS} trials", searched),
):
    accuracy = one.evaluate(x_test, y_test, verbose=0)[1]
    print(f"{name}: {accuracy:.1%} of new images are right.")
