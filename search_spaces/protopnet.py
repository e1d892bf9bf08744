"""Search space of protopnet. The published point is the Config's defaults and is tried first."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    return {
        "coef_clst": trial.suggest_float("coef_clst", 0.08, 8.0, log=True),  # one decade either side of the paper's 0.8
        "coef_sep": trial.suggest_float("coef_sep", 0.008, 0.8, log=True),  # one decade either side of the paper's 0.08
        "prototypes_per_class": trial.suggest_int("prototypes_per_class", 3, 8),  # paper 002: 5; ProtoPNet has 10
        "distance": trial.suggest_categorical("distance", ["l2", "l2sq"]),  # paper 002's code; NeurIPS 2019
        "joint_epochs": trial.suggest_int("joint_epochs", 11, 51, step=10),  # as iaia_bl, whose program it is
        "lr_trunk": trial.suggest_float("lr_trunk", 2e-5, 2e-3, log=True),  # one decade either side of the code's 2e-4
        "lr_add_on": trial.suggest_float(
            "lr_add_on", 3e-4, 3e-2, log=True
        ),  # one decade either side of the code's 3e-3
        "lr_prototypes": trial.suggest_float("lr_prototypes", 3e-4, 3e-2, log=True),  # one decade either side of 3e-3
        "lr_h1": trial.suggest_float("lr_h1", 1e-4, 1e-2, log=True),  # one decade either side of the code's 1e-3
    }
