"""Search space of iaia_bl. The published point is the Config's defaults and is tried first."""

from typing import Any

PUBLISHED = {"fine_annotation": True}
SETTLES = {"coef_fine": "fine_annotation"}


def space(trial: Any) -> dict[str, Any]:
    found = {
        "topk_k": trial.suggest_categorical(
            "topk_k", [1, 3, 5, 9]
        ),  # paper 002: 1, 3, 9 tried, 5 in its text, 9 published
        "coef_clst": trial.suggest_float("coef_clst", 0.08, 8.0, log=True),  # one decade either side of the paper's 0.8
        "coef_sep": trial.suggest_float("coef_sep", 0.008, 0.8, log=True),  # one decade either side of the paper's 0.08
        "prototypes_per_class": trial.suggest_int("prototypes_per_class", 3, 8),  # paper: 5 (15 in all)
        "distance": trial.suggest_categorical("distance", ["l2", "l2sq"]),  # the code's; the paper's Eq. 1
        "joint_epochs": trial.suggest_int("joint_epochs", 11, 51, step=10),  # code: 41; a projection every 10
        "lr_trunk": trial.suggest_float("lr_trunk", 2e-5, 2e-3, log=True),  # one decade either side of the code's 2e-4
        "lr_add_on": trial.suggest_float(
            "lr_add_on", 3e-4, 3e-2, log=True
        ),  # one decade either side of the code's 3e-3
        "lr_prototypes": trial.suggest_float("lr_prototypes", 3e-4, 3e-2, log=True),  # one decade either side of 3e-3
        "lr_h1": trial.suggest_float("lr_h1", 1e-4, 1e-2, log=True),  # one decade either side of the code's 1e-3
    }
    # paper 002 tried lambda_f at 0, 0.001, 0.002, 0.005; half a decade below and a third above the non-zero ones
    if trial.suggest_categorical("fine_annotation", [True, False]):
        found["coef_fine"] = trial.suggest_float("coef_fine", 1e-4, 1e-2, log=True)
    else:
        found["coef_fine"] = 0.0
    return found
