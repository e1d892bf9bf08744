"""Search space of cam_cnn. The published point is the Config's defaults and is tried first."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "channels": trial.suggest_categorical("channels", [16, 32, 64]),  # one step either way of ours
        "lr": trial.suggest_float("lr", 3e-4, 3e-2, log=True),  # one decade either side of ours
    }
