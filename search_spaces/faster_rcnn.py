"""Search space of faster_rcnn. The Config's defaults are torchvision's, but for Adam's, and are tried first."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "lr": trial.suggest_float("lr", 1e-5, 1e-3, log=True),  # ours: one decade either side of 1e-4
        "weight_decay": trial.suggest_categorical(
            "weight_decay", [0.0, 1e-5, 1e-4, 1e-3]
        ),  # torchvision's script: 1e-4
        "schedule": trial.suggest_categorical("schedule", ["steps", "constant"]),  # torchvision's script: steps
        # lesions are few and small: fewer anchors reach the published overlap than in photographs
        "rpn.foreground": trial.suggest_categorical(
            "rpn.foreground", [0.5, 0.6, 0.7]
        ),  # Ren et al.: 0.7; lower are ours
        "head.nms": trial.suggest_float("head.nms", 0.1, 0.7, step=0.1),  # torchvision: 0.5; masses seldom overlap
        "head.positive": trial.suggest_categorical("head.positive", [0.125, 0.25, 0.5]),  # torchvision: 0.25
    }
