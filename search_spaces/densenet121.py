"""Search space of densenet121. The Config's defaults are tried first. Paper 003 prints no setting: all ranges are ours, but for
the strategies of its Table 1."""

from typing import Any

STRATEGIES = ["max224", "bbox", "double_square", "double_bbox", "bbox_overlap"]


def space(trial: Any) -> dict[str, Any]:
    return network(trial) | {"roi.strategy": trial.suggest_categorical("roi.strategy", STRATEGIES)}


def network(trial: Any) -> dict[str, Any]:
    """What is searched of a student, too, whose region is its teacher's."""
    return {
        "lr": trial.suggest_float("lr", 1e-5, 3e-3, log=True),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 1e-5, 1e-4, 1e-3]),
        "trainable": trial.suggest_categorical("trainable", ["group4", "all"]),
        "epochs": trial.suggest_int("epochs", 5, 100),
    }


def readings(trial: Any) -> dict[str, Any]:
    """Points on which the paper is silent."""
    return {
        "unfreeze_transition3": trial.suggest_categorical("unfreeze_transition3", [False, True]),
        "frozen_bn_eval": trial.suggest_categorical("frozen_bn_eval", [True, False]),
    }
