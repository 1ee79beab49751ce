"""What `dir()` shows: the public names, and not the files that hold them."""


def show_exports(module, *submodules):
    """Lets `dir(module)` list what the module exports.

    That is all that it, or a file in its folder, defines and that its name
    does not mark as private.

    Args:
        module: A module.
        *submodules: Names of submodules that are public themselves.
    """

    def is_export(name, value):
        room = f"{module.__name__}."
        own = f"{getattr(value, '__module__', '')}.".startswith(room)
        return (own and not name.startswith("_")) or name in submodules

    module.__dir__ = lambda: sorted(
        name for name, value in vars(module).items() if is_export(name, value)
    )
