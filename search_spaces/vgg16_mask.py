"""Search space of vgg16_mask: that of vgg16 and the weight of the penalty. The Config's defaults are tried first."""

from typing import Any

from search_spaces import vgg16


def space(trial: Any) -> dict[str, Any]:
    # ours: two decades either side of 1e-5; from no effect to a map that has died out
    return vgg16.space(trial) | {"coef_mask": trial.suggest_float("coef_mask", 1e-7, 1e-3, log=True)}


def readings(trial: Any) -> dict[str, Any]:
    """What of GradCAM is punished; no source settles it."""
    return {"mask_map": trial.suggest_categorical("mask_map", ["signed", "positive"])}
