"""Predictions by networks that have not seen the example."""

import keras
import numpy as np

from keras_bilevel.callbacks import agreement
from keras_bilevel.callbacks import outputs
from keras_bilevel.checks import NewModels
from keras_bilevel.checks import check_integer
from keras_bilevel.data.arrays import read_examples
from keras_bilevel.data.labels import read_class_ids
from keras_bilevel.engine.compiled_losses import outputs_of
from keras_bilevel.extras import import_extra


def out_of_sample(make_model, x, y, *, folds=5, seed=0, verbose=1, **fit):
    """Returns class probabilities by networks that have not seen the example.

    It is cross-validation, stratified by label: for each fold a new network is
    trained on the other ones. It costs as much as `folds - 1` full trainings.
    The result is what cleanlab calls `pred_probs`. The probability of the given
    label ranks the labels:
    `kb.report.suspects(pred_probs[range(len(y)), y], y)`.

    Args:
        make_model: Function without arguments that returns a new compiled
            `keras.Model`, plain or one of this package. It has one output, of
            classes, and a cross-entropy of `keras.losses`.
        x: Array with a row for each example, or a structure of arrays.
        y: The given labels, integers or one-hot.
        folds: Integer, 2 or more. Defaults to `5`.
        seed: Integer, decides which examples are in which fold. Defaults to
            `0`.
        verbose: 0 or 1, whether to show a progress bar over folds. Defaults to
            `1`.
        **fit: Arguments of `fit`, such as `epochs` and `batch_size`. Of
            `sample_weight`, each fold gets its part.

    Returns:
        Float32 array of shape `(n, num_classes)`, whose rows sum to 1. A single
        output for two classes gives two columns.

    Raises:
        ValueError: If an array has another length than `y`, there are fewer
            than two folds, `make_model` returns a model that it has returned
            before, or one with weights of it, or predictions are not known to
            be probabilities of classes.

    Example:

    ```python
    def make_model():
        model = keras.models.clone_model(net)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    pred_probs = kb.report.out_of_sample(make_model, x, y, epochs=2, verbose=0)
    kb.report.suspects(pred_probs[np.arange(len(y)), y], y).head()
    ```

    Reference:

    - [Northcutt et al., 2021](https://arxiv.org/abs/1911.00068)
    """
    check_integer("folds", folds, 2)
    x, y, weights = read_examples(x, y, fit.pop("sample_weight", None))
    classes = read_class_ids("y", y)
    selection = import_extra("sklearn.model_selection", "report")
    split = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    bar = keras.utils.Progbar(folds, verbose=verbose, unit_name="fold")
    # A trained one would have seen what it is to predict.
    found, new_models = None, NewModels()
    for number, (seen, unseen) in enumerate(split.split(classes, classes)):
        model = make_model()
        new_models.check(model)
        if weights is not None:
            fit["sample_weight"] = weights[seen]
        model.fit(_rows(x, seen), y[seen], verbose=0, **fit)
        new_models.add(model)
        part = _probabilities(model, _rows(x, unseen), y[unseen])
        if found is None:
            found = np.empty((len(y), part.shape[1]), "float32")
        found[unseen] = part
        bar.update(number + 1)
    return found


def _rows(x, rows):
    return keras.tree.map_structure(lambda a: a[rows], x)


def _probabilities(model, x, y):
    y_pred = model.predict(x, batch_size=1024, verbose=0)
    watched = outputs_of(outputs.observed_network(model), y, y_pred)
    if len(watched) == 1:
        found = agreement.class_probabilities(watched[0])
        if found is not None:
            return keras.ops.convert_to_numpy(found)
    losses = [output.loss.name for output in watched]
    raise ValueError(
        "Expected a model with one output, of shape (batch_size, num_classes) "
        "or of one number for two classes, and a cross-entropy of "
        f"`keras.losses`. Received: losses={losses}, predictions of shape "
        f"{keras.tree.map_structure(np.shape, y_pred)}"
    )
