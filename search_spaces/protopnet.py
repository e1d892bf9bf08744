"""Search space of protopnet. The published point is the Config's defaults and is tried first.

Paper 002: Barnett et al. 2021, whose baseline this is; its code is iaia_bl's. ProtoPNet: Chen et al. 2019, the variant
neurips2019. Which of the two programs runs (`variant`) is the user's choice and is not searched.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "coef_clst": trial.suggest_float(
            "coef_clst", 0.08, 8.0, log=True
        ),  # one decade either side of both papers' 0.8
        "coef_sep": trial.suggest_float(
            "coef_sep", 0.008, 0.8, log=True
        ),  # one decade either side of both papers' 0.08
        "prototypes_per_class": trial.suggest_int("prototypes_per_class", 3, 8),  # paper 002: 5; ProtoPNet has 10
        "joint_epochs": trial.suggest_int("joint_epochs", 11, 51, step=5),  # paper 002's code: 41; ProtoPNet's: 36
        "push_every": trial.suggest_categorical("push_every", [5, 10, 20]),  # both codes: 10; its half and its double
        # rates: one decade either side of the code's 2e-3, 2e-4, 3e-3, 3e-3 and 1e-3
        "lr_warm_add_on": trial.suggest_float("lr_warm_add_on", 2e-4, 2e-2, log=True),
        "lr_trunk": trial.suggest_float("lr_trunk", 2e-5, 2e-3, log=True),
        "lr_add_on": trial.suggest_float("lr_add_on", 3e-4, 3e-2, log=True),
        "lr_prototypes": trial.suggest_float("lr_prototypes", 3e-4, 3e-2, log=True),
        "lr_h1": trial.suggest_float("lr_h1", 1e-4, 1e-2, log=True),
    }


def readings(trial: Any) -> dict[str, Any]:
    """Points on which the two programs disagree: paper 002's first, ProtoPNet's second, unless said otherwise."""
    return {
        "distance": trial.suggest_categorical("distance", ["l2", "l2sq"]),
        # the third: paper 002's code without its script's flag
        "incorrect_class_weight": trial.suggest_categorical("incorrect_class_weight", [-1.0, -0.5, -2.0]),
        "coef_l1": trial.suggest_categorical("coef_l1", [1e-4, 0.0]),  # both codes; paper 002's Eq. 3
        "input_norm": trial.suggest_categorical("input_norm", ["none", "imagenet"]),
        "prune.rule": trial.suggest_categorical("prune.rule", ["duplicates", "none"]),
    }
