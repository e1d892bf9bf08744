"""Search space of gmic. The published point is the Config's defaults and is tried first.

The map that detection reads (`test_cam`) and the threshold on it are searched too, without training again: a trial is judged under all
five maps and all thresholds, and keeps the best on validation.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "train_cam": trial.suggest_categorical(
            "train_cam", ["cam", "gradcam", "gradcampp", "xgradcam", "layercam"]
        ),  # paper 004, Table II has three of them as rows
        "percent_t": trial.suggest_float("percent_t", 0.01, 0.2, log=True),  # GMIC's five models: 0.02 to 0.10
        "K": trial.suggest_int("K", 1, 8),  # 6 published, 3 in the scripts of paper 004
        "crop": trial.suggest_float("crop", 0.05, 0.3, log=True),  # 0.087 published; masses fill more of a small film
        "beta": trial.suggest_float("beta", 1e-6, 1e-3, log=True),  # GMIC's five models: 3.26e-6 to 2.28e-4
        "lr": trial.suggest_float(
            "lr", 1e-6, 1e-2, log=True
        ),  # published 4.1e-5; small networks from nothing want more
    }


def readings(trial: Any) -> dict[str, Any]:
    """Where paper 004 is silent, or its code says otherwise."""
    return {
        "cam_score": trial.suggest_categorical("cam_score", ["y_global", "sum_logit", "fusion_logit"]),
        "l1": trial.suggest_categorical("l1", ["sum", "mean"]),
        "test_crops": trial.suggest_categorical("test_crops", ["train_cam", "cam"]),
    }
