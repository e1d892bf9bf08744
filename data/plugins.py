"""How a user's own package is found: MAMMOBENCH_PLUGINS names modules that register what they bring.

    export MAMMOBENCH_PLUGINS=my_package.mammobench,another_module

Such a module must be importable (on PYTHONPATH, or installed), imports nothing heavy, and calls, when it is imported:

    models.register("my_method", "my_package.my_method")          # a file that keeps the contract of models/method.py
    search_spaces.register("my_method", "my_package.my_space")    # a file with space(trial), optional
    data.register("my_data", "my_package.my_reader")              # a reader, optional

Processes that a command starts, on this machine or on a cluster's nodes, read the same variable.
"""

import importlib
import os

from data.errors import ConfigError, brief

VARIABLE = "MAMMOBENCH_PLUGINS"
_loaded: set[str] = set()


def load() -> None:
    """Import what the variable names, each module once. Raises ConfigError for one that fails to import."""
    for name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        if name in _loaded:
            continue
        _loaded.add(name)  # before its import: a plugin may ask the registries
        try:
            importlib.import_module(name)
        except ConfigError:
            _loaded.discard(name)
            raise
        except (Exception, SystemExit) as error:  # whatever a user's module raises, it is told in one line
            _loaded.discard(name)
            raise ConfigError(brief(error), f"{VARIABLE}: {name}", "mend it, or leave it out") from error
