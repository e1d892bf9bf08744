"""Lesion and Background cells in numbers: where a network's Lesion cells lie, what it does on them, and what it takes a
confounder for (docs/metrics/lesion_background.md). The engine writes the table that this reads; see COLUMNS.

Both readings of the mean grey level are measured, since they mean different things. n counts the lesions that were asked,
whatever a measure has to leave out: so it is the same for every method and seed, and the note says how many are left out.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bench.metrics import auroc
from bench.metrics.agreement import ratio
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.parts import NotComputableError, Part, part_of_totals

# One row per lesion, network, reading of mu and cell. network: TRAINED, or RANDOM: the same with random weights.
# row, column: of the cell. coverage: share of its pixels on the lesion mask.
# activation: Eq. 3 of paper 003. variance: its pixels' mean windowed variance of that mu. to_lesion, to_background: Eq. 6.
# confounder: whether it overlaps the phantom's confounder, 0 or 1; NaN where the data do not know the place of one.
COLUMNS = (
    *(*ROW_KEY, "network", "mu", "row", "column", "coverage", "activation", "variance"),
    *("to_lesion", "to_background", "confounder"),
)
ASKED = "cells"  # key of a frame's meta: {"asked": how many lesions, "missing": why there is no table, "" = there is}
INSIDE = 0.5  # coverage from which on a cell counts as inside the mask
TRAINED, RANDOM = "trained", "random"
Mu = Literal["printed", "standard"]
MUS: tuple[Mu, ...] = get_args(Mu)
Measure = Literal[
    "in_mask", "chance", "activation_lesion", "activation_background", "activation_difference", "confounder",
    "others", "spearman",
]  # fmt: skip
LEFT_OUT: dict[Measure, str] = {
    "in_mask": "no Lesion cell",
    "chance": "no Lesion cell",
    "activation_lesion": "no Lesion cell, or no activation",
    "activation_background": "no Background cell, or no activation",
    "activation_difference": "cells of one kind alone, or no activation",
    "confounder": "no confounder cell outside the mask",
    "others": "no confounder cell outside the mask, or no other one",
    "spearman": "activation or variance does not vary",
}
RANGES: dict[Measure, tuple[float, float]] = {
    "activation_lesion": (0.0, np.inf),
    "activation_background": (0.0, np.inf),
    "activation_difference": (-np.inf, np.inf),
    "spearman": (-1.0, 1.0),
}  # of the rest 0 to 1


def mean_over_lesions(frame: Frame, measure: Measure, mu: Mu = "printed", network: str = TRAINED) -> Part:
    """The mean over lesions of one measure of each (see `_measures`)."""
    table = frame.cached(f"lesions of {mu}, {network}", lambda: _lesions(frame, mu, network))
    values = table[measure].to_numpy(float)
    known = np.isfinite(values)
    if not known.any():
        raise NotComputableError(f"of every lesion: {LEFT_OUT[measure]}")
    missing = len(values) - int(known.sum())
    note = f"{missing} of {len(values)} lesions left out: {LEFT_OUT[measure]}" if missing else ""
    rows = np.stack([np.where(known, values, 0.0), known], axis=1)
    patients, folds, labels = (table[name].to_numpy() for name in ("patient", "fold", "label"))
    lowest, highest = RANGES.get(measure, (0.0, 1.0))
    return part_of_totals(rows, patients, folds, labels, ratio, n=len(table), note=note, lowest=lowest, highest=highest)


def against_mask(
    frame: Frame, mu: Mu = "printed", network: str = TRAINED, score: Literal["evidence", "variance"] = "evidence"
) -> Part:
    """AUROC of a score against being inside the mask: cells of all lesions pooled, clustered by patient.

    evidence: to_background - to_lesion; variance: the cell's own, which knows no network.
    """
    rows = _rows(frame, mu, network)
    inside = (rows["coverage"] >= INSIDE).to_numpy()
    if inside.all() or not inside.any():
        raise NotComputableError(f"every cell is {'inside' if inside.all() else 'outside'} the mask")
    scores = (rows["variance"] if score == "variance" else rows["to_background"] - rows["to_lesion"]).to_numpy(float)
    patients, folds = rows["patient"].to_numpy(), rows["fold"].to_numpy()
    for fold in np.unique(folds):
        if not 0 < inside[folds == fold].mean() < 1:
            raise NotComputableError(f"fold {fold} has cells of one kind alone, inside or outside the mask")
    part = auroc.part_of({"inside the mask": (1, scores)}, inside.astype(np.int64), patients, folds)
    return replace(part, n=int(rows.groupby(ROW_KEY).ngroups))


def _rows(frame: Frame, mu: Mu, network: str) -> pd.DataFrame:
    """The cells of this mu and network whose lesion is a labelled row, with that row's patient, fold and label."""
    if frame.cells is None:
        missing = str(frame.meta.get(ASKED, {}).get("missing", ""))
        raise NotComputableError(
            missing or "the frame has no Lesion and Background cells; `final --cells` asks for them"
        )
    facts = frame.labelled().predictions[[*ROW_KEY, "patient", "fold", "label"]].astype(dict.fromkeys(ROW_KEY, str))
    table = frame.cells[(frame.cells["mu"] == mu) & (frame.cells["network"] == network)]
    rows = table.astype(dict.fromkeys(ROW_KEY, str)).merge(facts, on=ROW_KEY, how="inner")
    if rows.empty:
        raise NotComputableError("no labelled row was asked for its cells")
    return rows


def _lesions(frame: Frame, mu: Mu, network: str) -> pd.DataFrame:
    """One row per lesion: patient, fold, label, and a column per measure."""
    found = []
    for _, cells in _rows(frame, mu, network).groupby(ROW_KEY):
        first = cells.iloc[0]
        found.append({"patient": first["patient"], "fold": first["fold"], "label": first["label"]} | _measures(cells))
    return pd.DataFrame(found)


def _measures(cells: pd.DataFrame) -> dict[str, float]:
    """Of the cells of one lesion; NaN where there is no such cell.

    in_mask: share of the Lesion cells inside the mask; chance: the same of all cells. activation_<kind>: mean activation of
    these cells over that of all. confounder: share of the confounder's cells outside the mask that are called Background;
    others: the same of the other cells outside the mask. spearman: of activation and variance.
    """
    lesion = (cells["to_lesion"] < cells["to_background"]).to_numpy()
    inside = (cells["coverage"] >= INSIDE).to_numpy()
    spot = (cells["confounder"] == 1).to_numpy() & ~inside
    activation, variance = cells["activation"].to_numpy(float), cells["variance"].to_numpy(float)
    relative = activation / activation.mean() if activation.mean() > 0 else np.full(len(cells), np.nan)
    on_lesion, on_background = _mean(relative[lesion]), _mean(relative[~lesion])
    varies = np.ptp(activation) > 0 and np.ptp(variance) > 0
    return {
        "in_mask": _mean(inside[lesion]),
        "chance": _mean(inside) if lesion.any() else np.nan,
        "activation_lesion": on_lesion,
        "activation_background": on_background,
        "activation_difference": on_lesion - on_background,
        "confounder": _mean(~lesion[spot]),
        "others": _mean(~lesion[~inside & ~spot]) if spot.any() else np.nan,
        "spearman": float(spearmanr(activation, variance).statistic) if varies else np.nan,
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# ---- what the registry lists ----------------------------------------------------------------------------------------
_each: Callable[..., Part] = mean_over_lesions
_pooled: Callable[..., Part] = against_mask
_IN_MASK = "share of the Lesion cells that lie on the lesion mask"
_TOLD = "AUROC of being more like Lesion than Background against lying on the mask, over cells"
_SHARE, _RELATIVE = "share of cells", "of the region's mean"
# name, maker, direction, unit, summary
FACTS: tuple[tuple[str, Callable[..., Part], str, str, str], ...] = (
    ("in_mask", partial(_each, measure="in_mask"), "max", _SHARE, _IN_MASK),
    ("in_mask_chance", partial(_each, measure="chance"), "none", _SHARE, "share of all cells that lie on the mask"),
    ("in_mask_random", partial(_each, measure="in_mask", network=RANDOM), "none", _SHARE, f"{_IN_MASK}; random weights"),
    ("auroc", _pooled, "max", "", _TOLD),
    ("auroc_random", partial(_pooled, network=RANDOM), "none", "", f"{_TOLD}; random weights"),
    ("auroc_variance", partial(_pooled, score="variance"), "none", "", "AUROC of the windowed variance alone, over cells"),
    *(
        (f"activation_{of}", partial(_each, measure=f"activation_{of}"), "none", _RELATIVE, f"mean activation {words}")
        for of, words in (
            ("lesion", "of Lesion cells"), ("background", "of Background cells"),
            ("difference", "of Lesion less Background cells"),
        )
    ),
    ("confounder", partial(_each, measure="confounder"), "max", _SHARE, "confounder's cells that are called Background"),
    ("confounder_others", partial(_each, measure="others"), "none", _SHARE, "the same of other cells off the mask"),
    ("spearman", partial(_each, measure="spearman"), "none", "", "Spearman of a region's activation and variance"),
)  # fmt: skip
