"""The fields of a config by dotted name, as search spaces and suites speak of them."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


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


def held(config: BaseModel, fixed: set[str]) -> dict[str, Any]:
    """The values of the fields that a suite has set: these are not searched."""
    values = flat(config)
    return {name: values[name] for name in fixed if name in values}
