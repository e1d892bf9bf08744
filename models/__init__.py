"""The registry: what this folder holds. A file without a leading underscore that defines CARD is a method."""

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType

from data.errors import ConfigError


@cache
def names() -> tuple[str, ...]:
    """Names of all methods, from the file names alone: nothing is imported."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_") and m.name != "method")
    )


def load(name: str):  # type: ignore[no-untyped-def]  # -> type[models.method.Method], without importing torch here
    """The class of a method, with its card. Raises ConfigError for an unknown name or a file that fails to import."""
    module = _module(name)
    from models.method import Method

    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Method) and value.__module__ == module.__name__ and not value.__name__.startswith("_")
    ]
    if len(found) != 1 or not hasattr(module, "CARD"):
        raise ConfigError(
            f"a method file defines CARD and exactly one public Method; found {len(found)} of these",
            f"models/{name}.py",
            "see docs/adding_a_method.md",
        )
    if module.CARD.name != name:
        raise ConfigError(f"CARD.name is {module.CARD.name!r}", f"models/{name}.py", "give card and file the same name")
    found[0].card = module.CARD
    return found[0]


def _module(name: str) -> ModuleType:
    extra = _extra.get(name)
    if extra is not None:
        return importlib.import_module(extra)
    if name not in names():
        raise ConfigError(f"no method {name!r}", "method", f"choose one of: {', '.join(names())}")
    try:
        return importlib.import_module(f"models.{name}")
    except Exception as error:
        raise ConfigError(
            f"unavailable: {type(error).__name__}: {error}", f"models/{name}.py", "mend the file"
        ) from error


_extra: dict[str, str] = {}


def register(name: str, module: str) -> None:
    """Offer a method that lives elsewhere (a user's package, a test) under a name that the folder does not hold."""
    if name in names():
        raise ConfigError(f"two files claim the method {name!r}", module, "rename one of them")
    _extra[name] = module
