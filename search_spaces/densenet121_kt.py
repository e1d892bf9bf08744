"""Search space of densenet121_kt: that of densenet121, and the transfer. Of a teacher on masks nothing is searched, nor how the
region is cut, which is the teacher's too: trials share it, or do without."""

from itertools import combinations
from typing import Any

from search_spaces import densenet121

SETS = {"".join(map(str, chosen)): chosen for count in (1, 2, 3, 4) for chosen in combinations((1, 2, 3, 4), count)}
PUBLISHED = {"which_groups": "4"}
SETTLES = {"groups": "which_groups"}


def space(trial: Any) -> dict[str, Any]:
    return densenet121.network(trial) | {
        # ours: two decades either side of 10, which gives attention transfer's usual size; from no effect to the map alone
        "beta": trial.suggest_float("beta", 0.1, 1000.0, log=True),
        "form": trial.suggest_categorical("form", ["l2", "l2_squared", "at_code"]),
        "teacher": trial.suggest_categorical("teacher", ["mask_trained", "same_weights"]),
        "groups": SETS.get(trial.suggest_categorical("which_groups", list(SETS)), (4,)),
    }


def readings(trial: Any) -> dict[str, Any]:
    """Points on which the paper is silent."""
    return densenet121.readings(trial) | {
        "tap": trial.suggest_categorical("tap", ["post_norm", "block_out"]),
    }
