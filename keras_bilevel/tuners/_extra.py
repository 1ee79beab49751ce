"""Says at once what is missing, before the modules that import it."""

from keras_bilevel.extras import import_extra

import_extra("keras_tuner", "tuner")
import_extra("scipy", "tuner")
