"""The registry: what this folder holds. A file without a leading underscore that defines CARD is a method.

A user's own methods live elsewhere and are registered by a module that MAMMOBENCH_PLUGINS names (data/plugins.py).
"""

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType

from data import plugins
from data.errors import ConfigError, brief


def names() -> tuple[str, ...]:
    """Names of all methods, registered ones included. Imports no method."""
    plugins.load()
    return tuple(sorted({*_own_names(), *_extra}))


@cache
def _own_names() -> tuple[str, ...]:
    """Methods of this folder, from the file names alone."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_") and m.name != "method")
    )


def load(name: str):  # type: ignore[no-untyped-def]  # -> type[models.method.Method], without importing torch here
    """The class of a method, with its card. Raises ConfigError for an unknown name or a file that fails to import."""
    module = _module(name)
    where = _where(name)
    from models.method import Method

    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Method) and value.__module__ == module.__name__ and not value.__name__.startswith("_")
    ]
    if len(found) != 1 or not hasattr(module, "CARD"):
        raise ConfigError(
            f"a method file defines CARD and exactly one public Method; found {len(found)} of these",
            where,
            "see docs/adding_a_method.md",
        )
    if (named := getattr(module.CARD, "name", None)) != name:
        raise ConfigError(f"CARD.name is {named!r}, not {name!r}", where, "give card and method the same name")
    found[0].card = module.CARD
    return found[0]


def _module(name: str) -> ModuleType:
    if name not in names():
        raise ConfigError(f"no method {name!r}", "method", f"choose one of: {', '.join(names())}")
    try:
        return importlib.import_module(_extra.get(name, f"models.{name}"))
    except (Exception, SystemExit) as error:  # whatever a method's file raises makes it unavailable, with that reason
        raise ConfigError(
            f"the method's file does not import: {brief(error)}", _where(name), "mend the file"
        ) from error


def _where(name: str) -> str:
    return _extra.get(name, f"models/{name}.py")


_extra: dict[str, str] = {}


def register(name: str, module: str) -> None:
    """Offer a method that lives elsewhere (a user's package, a test) under a name that the folder does not hold."""
    if name in _own_names() or _extra.get(name, module) != module:
        raise ConfigError(f"two files claim the method {name!r}", module, "rename one of them")
    _extra[name] = module
