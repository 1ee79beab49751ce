import keras
import pytest


@pytest.fixture(autouse=True)
def fixed_seed():
    # No test makes a model: clearing the session, which collects garbage,
    # would cost more than the tests.
    keras.utils.set_random_seed(0)
