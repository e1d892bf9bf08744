"""Search space of the toy."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        "peak": trial.suggest_categorical("peak", ["max", "mean"]),
    }
