"""Mammograms on disk (or generated) as records, and what training sees of them. Floor 0: knows nothing of methods.

The registry of data sets: a file in this folder that defines CARD, Options and records is a reader.
"""

import functools
import importlib
import pkgutil
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from data import plugins
from data.errors import ConfigError, brief

if TYPE_CHECKING:
    from data.record import DataCard, Reader

_CARD = re.compile(r"^CARD\b", re.MULTILINE)
_RECORDS = re.compile(r"^def records\(", re.MULTILINE)


@functools.cache
def _own_names() -> tuple[str, ...]:
    """Readers of this folder, told from their text alone: nothing is imported."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_") or module.ispkg:
            continue
        text = Path(__path__[0], f"{module.name}.py").read_text(encoding="utf-8")
        if _CARD.search(text) and _RECORDS.search(text):
            found.append(module.name)
    return tuple(sorted(found))


def names() -> tuple[str, ...]:
    """Names of all data sets, registered ones included. Imports no reader."""
    plugins.load()
    return tuple(sorted({*_own_names(), *_extra}))


def reader(name: str) -> "Reader":
    """The reader of a data set. Raises ConfigError for an unknown name or a file that does not keep the contract."""
    if name not in names():
        raise ConfigError(f"no data set {name!r}", "dataset", f"choose one of: {', '.join(names())}")
    where = _extra.get(name, f"data.{name}")
    try:
        module = importlib.import_module(where)
    except (Exception, SystemExit) as error:  # whatever a reader's file raises makes it unavailable, and says why
        raise ConfigError(f"the reader's file does not import: {brief(error)}", where, "mend the file") from error
    missing = [part for part in ("CARD", "Options", "records") if not hasattr(module, part)]
    if missing:
        raise ConfigError(f"a reader defines CARD, Options and records; {', '.join(missing)} missing", where, "mend it")
    if (named := getattr(module.CARD, "name", None)) != name:
        raise ConfigError(f"CARD.name is {named!r}, not {name!r}", where, "give card and data set the same name")
    return cast("Reader", module)


def datasets() -> "dict[str, DataCard]":
    """Name -> card of every data set. Raises ConfigError if a reader fails to import."""
    return {name: reader(name).CARD for name in names()}


_extra: dict[str, str] = {}


def register(name: str, module: str) -> None:
    """Offer a reader that lives elsewhere (a user's package, a test) under a name that the folder does not hold."""
    if name in _own_names() or _extra.get(name, module) != module:
        raise ConfigError(f"two readers claim the data set {name!r}", module, "rename one of them")
    _extra[name] = module
