"""Search space of vgg16. The published point is the Config's defaults and is tried first."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    found = {
        "lr": trial.suggest_float(
            "lr", 1e-6, 1e-3, log=True
        ),  # code: 1e-5; one decade below, two above (new heads want more)
        "weight_decay": trial.suggest_float(
            "weight_decay", 1e-4, 1.0, log=True
        ),  # code: 0.1; one decade above, usual values below
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),  # code: constant; cosine is ours
        "warmup_steps": trial.suggest_categorical(
            "warmup_steps", [0, 50]
        ),  # code: 0; 50 is ours (a trunk without norm starts more safely)
        "head": trial.suggest_categorical("head", ["published", "pool_linear"]),  # pool_linear learns at small budgets
    }
    if found["head"] == "published":
        found["hidden"] = trial.suggest_categorical("hidden", [256, 512, 4096])  # margin run 512, released class 4096
        found["dropout"] = trial.suggest_float("dropout", 0.0, 0.7, step=0.1)  # code: 0.5
    return found
