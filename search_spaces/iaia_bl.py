"""Search space of iaia_bl. The published point is the Config's defaults and is tried first.

Paper: Barnett et al. 2021 (paper 002); code: its authors' public code.
"""

from typing import Any

PUBLISHED = {"fine_annotation": True}
SETTLES = {"coef_fine": "fine_annotation"}


def space(trial: Any) -> dict[str, Any]:
    found = {
        "topk_k": trial.suggest_categorical("topk_k", [1, 3, 5, 9]),  # paper: 1, 3, 9 tried, 5 in its text, 9 published
        "coef_clst": trial.suggest_float("coef_clst", 0.08, 8.0, log=True),  # one decade either side of the paper's 0.8
        "coef_sep": trial.suggest_float("coef_sep", 0.008, 0.8, log=True),  # one decade either side of the paper's 0.08
        "prototypes_per_class": trial.suggest_int("prototypes_per_class", 3, 8),  # paper: 5 (15 in all)
        "joint_epochs": trial.suggest_int("joint_epochs", 11, 51, step=10),  # code: 41; a projection every 10
        "push_every": trial.suggest_categorical("push_every", [5, 10, 20]),  # code: 10; its half and its double
        # rates: one decade either side of the code's 2e-3, 2e-4, 3e-3, 3e-3 and 1e-3; the paper prints none
        "lr_warm_add_on": trial.suggest_float("lr_warm_add_on", 2e-4, 2e-2, log=True),
        "lr_trunk": trial.suggest_float("lr_trunk", 2e-5, 2e-3, log=True),
        "lr_add_on": trial.suggest_float("lr_add_on", 3e-4, 3e-2, log=True),
        "lr_prototypes": trial.suggest_float("lr_prototypes", 3e-4, 3e-2, log=True),
        "lr_h1": trial.suggest_float("lr_h1", 1e-4, 1e-2, log=True),
    }
    # paper: lambda_f tried at 0, 0.001, 0.002, 0.005; from a tenth of the least to twice the largest of the others
    if _taught(trial):
        found["coef_fine"] = trial.suggest_float("coef_fine", 1e-4, 1e-2, log=True)
    else:
        found["coef_fine"] = 0.0
    return found


def readings(trial: Any) -> dict[str, Any]:
    """Points on which paper and code disagree.

    Not among them: `fine_reduction`, which only rescales coef_fine; `fine_norm` square, a follower's, on another scale;
    `prune.rule` knn, which may leave a class without a prototype.
    """
    found = {
        "distance": trial.suggest_categorical("distance", ["l2", "l2sq"]),  # code; paper, Eq. 1 and 6
        # paper, and the code's script; ProtoPNet 2019; the code without its script's flag
        "incorrect_class_weight": trial.suggest_categorical("incorrect_class_weight", [-1.0, -0.5, -2.0]),
        "coef_l1": trial.suggest_categorical("coef_l1", [1e-4, 0.0]),  # code; paper, Eq. 3
        # code: raw grey values in training, ImageNet's statistics in projection; ProtoPNet 2019: ImageNet's in both
        "input_norm": trial.suggest_categorical("input_norm", ["none", "imagenet"]),
    }
    if _taught(trial):
        found["fine_norm"] = trial.suggest_categorical("fine_norm", ["stacked", "per_prototype"])  # code; paper, Eq. 7
        # code, and the paper's text; the set D' of the paper's Eq. 7
        found["fine_scope"] = trial.suggest_categorical("fine_scope", ["all_masked", "fine_only"])
    return found


def _taught(trial: Any) -> bool:
    """Whether the fine-annotation loss is on. Asked twice, a trial gives the same answer."""
    return bool(trial.suggest_categorical("fine_annotation", [True, False]))
