"""How schedules ask KerasTuner for their numbers."""

# Names are global in a search: "tau" or "c" may be the user's own.
PREFIX = "schedule_"


def ask(hp, names, low, high, **options):
    """Returns a list of floats in [low, high], one for each name.

    Args:
        hp: `keras_tuner.HyperParameters`.
        names: Sequence of strings.
        low: Float.
        high: Float.
        **options: Further arguments of `hp.Float`.
    """
    return [hp.Float(name, low, high, **options) for name in names]
