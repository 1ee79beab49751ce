"""The public names, and that each says what it is and takes."""

import ast
import inspect
import textwrap

import pytest

import keras_bilevel as kb

NAMES = {
    kb: """
        BilevelModel SelectionModel __version__ callbacks data layers losses
        report schedules selection tuners weighting
    """,
    kb.callbacks: """
        ExampleHistory LabelCurves Observer SelectionHistory WeightEvolution
        WeightHistory
    """,
    kb.data: """
        EpochCounter epoch_counters noise shuffled_batches
        source_target_batches stratified_batches
    """,
    kb.data.noise: """
        confusion pair_flip pixel_permutation predicted
        random_confusion_matrix symmetric uniform
    """,
    kb.layers: "LinearNoise NoiseAdaptation",
    kb.losses: "Bootstrapping ForwardCorrection estimate_transition",
    kb.report: """
        class_shares cleaned contact_sheet keep_mask kept_examples
        label_precision out_of_sample plot_class_shares plot_label_precision
        plot_threshold_sweep suspects threshold_sweep write_csv write_html
    """,
    kb.schedules: """
        CoTeachingSchedule ConstantSchedule MLPSchedule PiecewiseSchedule
        RBFSchedule RandomMonotoneSchedule S2ESchedule Schedule plot_schedules
        suggest_tau
    """,
    kb.selection: """
        ClassBalancedCoTeaching CoTeaching CoTeachingPlus Decoupling
        EarlyLearning Rule SelfPaced smallest
    """,
    kb.tuners: "ReusedModel S2EOracle S2ETuner Suggestion suggest_settings",
    kb.weighting: """
        DeepBilevel ExampleWeighting LearningToReweight MetaWeightNet
        ShardWeighting Soseleto Weighting get
    """,
}
OBJECTS = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in NAMES.items()
    for name in names.split()
    if callable(getattr(module, name))
}
CLASSES = {name: o for name, o in OBJECTS.items() if inspect.isclass(o)}
FUNCTIONS = {name: o for name, o in OBJECTS.items() if name not in CLASSES}
# What overrides another method is documented there.
METHODS = {
    f"{name}.{key}": getattr(value, "__func__", value)
    for name, cls in CLASSES.items()
    for key, value in vars(cls).items()
    if inspect.isfunction(getattr(value, "__func__", value))
    and not key.startswith("_")
    and key not in ("get_config", "from_config")
    and not any(hasattr(base, key) for base in cls.__mro__[1:])
}


def parameters(function):
    """Returns the names of what a call of a function has to think of."""
    named = inspect.signature(function).parameters.values()
    return [
        {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(p.kind.name, "")
        + p.name
        for p in named
        if p.name not in ("self", "cls")
    ]


def sections(docstring):
    """Returns the sections of a docstring by their names."""
    found, name = {}, None
    for line in inspect.cleandoc(docstring).splitlines():
        if line.rstrip(":") in ("Args", "Returns", "Raises", "Example"):
            name = line.rstrip(":")
        elif line and not line.startswith(" ") and line.endswith(":"):
            name = None
        elif name:
            found[name] = found.get(name, "") + line + "\n"
    return found


def outcomes(function):
    """Returns which of `Returns` and `Raises` a function has to document."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    has = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            has.add("Returns")
        elif isinstance(node, ast.Raise) and "NotImpl" not in ast.unparse(node):
            has.add("Raises")
    return has


def check(function, docstring, needed):
    """Checks that a docstring has all arguments and the needed sections."""
    said = sections(docstring)
    for name in parameters(function):
        assert f"{name}:" in said.get("Args", ""), name
    for section in needed:
        one_line = docstring.startswith("Returns ")
        assert section in said or (section == "Returns" and one_line), section


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_dir_is_what_is_public(module):
    assert dir(module) == sorted(NAMES[module].split())


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_is_and_has_an_example(name):
    cls = CLASSES[name]
    assert "Example" in sections(cls.__doc__), "Example"
    if cls.__init__ is not object.__init__:
        check(cls.__init__, cls.__doc__, ())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_and_returns(name):
    function = FUNCTIONS[name]
    check(function, function.__doc__, outcomes(function))
    assert "Example" in sections(function.__doc__), "Example"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_takes_and_returns(name):
    method = METHODS[name]
    check(method, method.__doc__, outcomes(method))


@pytest.mark.parametrize("module", [kb.callbacks, kb.schedules])
def test_histories_and_schedules_are_plotted_into_axes(module):
    for name in dir(module):
        thing = getattr(module, name)
        if inspect.isclass(thing) and thing is not kb.callbacks.Observer:
            assert (
                inspect.signature(thing.plot).parameters["ax"].default is None
            )
