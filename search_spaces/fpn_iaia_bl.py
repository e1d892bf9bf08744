"""Search space of fpn_iaia_bl. The published point is the Config's defaults and is tried first.

Paper: paper 000, which prints no count, coefficient or rate; IAIA-BL: Barnett et al. 2021; Deformable: Donnelly et al. 2022.
"""

from typing import Any

LEVELS = (2, 3, 4, 5)
PUBLISHED = {"levels": "published", "k_as": "cells", "fine_annotation": True, "tables": "published"}
# inside the mask as IAIA-BL's Eq. 7: a prototype of another class is punished there too
AS_IAIA_BL = ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (0, 0, 0, 0))
# where a suite settles one of these fields, the switch stands at none of its special forms
SETTLES = {
    "coef_fine": "fine_annotation",
    "topk_k": "k_as",
    "lambda_in": "tables",
    "topk_percent": ("k_as", "percent"),
    **{f"topk_k.{level}": ("k_as", "by_level") for level in LEVELS},
    **{f"prototypes.level_{level}": "levels" for level in LEVELS},
}


def space(trial: Any) -> dict[str, Any]:
    found = {
        "coef_clst": trial.suggest_float(
            "coef_clst", 0.08, 8.0, log=True
        ),  # one decade either side of Deformable's 0.8
        "coef_sep": trial.suggest_float("coef_sep", 0.008, 0.8, log=True),  # one decade either side of its 0.08
        "coef_ortho": trial.suggest_float("coef_ortho", 0.01, 1.0, log=True),  # one decade either side of its 0.1
        "dim": trial.suggest_categorical("dim", [128, 256, 512]),  # FPN: 256; IAIA-BL: 512
        "joint_epochs": trial.suggest_int("joint_epochs", 11, 51, step=10),  # IAIA-BL: 41
        "push_every": trial.suggest_categorical("push_every", [5, 10, 20]),  # IAIA-BL: 10; its half and its double
        # rates: one decade either side of IAIA-BL's 2e-4, 3e-3, 3e-3 and 1e-3
        "lr_trunk": trial.suggest_float("lr_trunk", 2e-5, 2e-3, log=True),
        "lr_pyramid": trial.suggest_float("lr_pyramid", 3e-4, 3e-2, log=True),
        "lr_prototypes": trial.suggest_float("lr_prototypes", 3e-4, 3e-2, log=True),
        "lr_h1": trial.suggest_float("lr_h1", 1e-4, 1e-2, log=True),
    }
    found |= _levels(trial)
    k_as, tried = trial.suggest_categorical("k_as", ["cells", "percent", "by_level"]), [1, 3, 5, 9]  # by IAIA-BL
    if k_as == "percent":  # IAIA-BL: 0.5 (1) to 4.6 % (9)
        found["topk_percent"] = trial.suggest_float("topk_percent", 0.3, 10.0, log=True)
    elif k_as == "by_level":
        used = [level for level in LEVELS if found.get(f"prototypes.level_{level}", 1)]
        found |= {f"topk_k.{level}": trial.suggest_categorical(f"topk_k.{level}", tried) for level in used}
    else:
        found["topk_k"] = trial.suggest_categorical("topk_k", tried)
    # IAIA-BL tried 0, 0.001, 0.002, 0.005; a decade below and a third above the non-zero ones
    if _taught(trial):
        found["coef_fine"] = trial.suggest_float("coef_fine", 1e-4, 1e-2, log=True)
    else:
        found["coef_fine"] = 0.0
    return found


def _levels(trial: Any) -> dict[str, Any]:
    """Prototypes of each class on each level: as the defaults, all on one level, or any numbers; the counts are ours."""
    form = trial.suggest_categorical("levels", ["published", "one_level", "free"])
    if form == "one_level":
        only = trial.suggest_categorical("only_level", list(LEVELS))
        count = trial.suggest_int("prototypes_per_class", 3, 8)  # IAIA-BL: 5
        return {f"prototypes.level_{level}": count if level == only else 0 for level in LEVELS}
    if form == "free":  # the highest level has one at least, so that every class has one
        return {
            f"prototypes.level_{level}": trial.suggest_int(f"prototypes.level_{level}", int(level == 5), 3)
            for level in LEVELS
        }
    return {}


def _taught(trial: Any) -> bool:
    """Whether the fine-annotation loss is on. Asked twice, a trial gives the same answer."""
    return bool(trial.suggest_categorical("fine_annotation", [True, False]))


def readings(trial: Any) -> dict[str, Any]:
    """Points on which the paper says two things, or is silent and its sources differ.

    Not among them: `fine_reduction`, which only rescales coef_fine; `angular_margin` and `coef_l1`, which the paper does
    not have; `incorrect_class_weight` and `fine_scope`, which iaia_bl's readings ask.
    """
    found = {
        "topdown": trial.suggest_categorical("topdown", ["eq1", "fpn"]),
        "score": trial.suggest_categorical("score", ["focal", "topk"]),
        "clust_on": trial.suggest_categorical("clust_on", ["focal", "topk"]),
        "ortho": trial.suggest_categorical("ortho", ["per_class_sq", "frob_joint", "frob_sum"]),
        "ortho_across_levels": trial.suggest_categorical("ortho_across_levels", [True, False]),
        "outputs": trial.suggest_categorical("outputs", [3, 4]),
        "train_head": trial.suggest_categorical("train_head", [True, False]),
        "head_after": trial.suggest_categorical("head_after", ["last", "each"]),
        "projection_classes": trial.suggest_categorical("projection_classes", ["own", "any"]),
        "cosine": trial.suggest_categorical("cosine", ["plain", "deformable"]),
        "upsample": trial.suggest_categorical("upsample", ["nearest", "bilinear"]),
    }
    if _taught(trial):
        found["fine_reading"] = trial.suggest_categorical(
            "fine_reading", ["semantic", "literal_m_inside", "literal_m_outside", "swapped_m_outside"]
        )
        found["fine_table_orientation"] = trial.suggest_categorical("fine_table_orientation", ["printed", "transposed"])
        if trial.suggest_categorical("tables", ["published", "as_iaia_bl"]) == "as_iaia_bl":
            found["lambda_in"] = AS_IAIA_BL
    return found
