"""A search space as a sweep uses it: what the suite has set stands still, and trial 0 is the published point."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from pydantic import BaseModel

Space = Callable[[Any], dict[str, Any]]


def flat(config: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields, and their values."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
