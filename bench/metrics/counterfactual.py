"""Counterfactual faithfulness: what a network makes of films whose lesion was taken away or was given another margin
(docs/metrics/counterfactual.md). The engine writes the table that this reads; see COLUMNS.

Shapes: N pairs, H W pixels of the input, h w cells of a map, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from scipy import ndimage

from bench.metrics import auroc
from bench.metrics.agreement import ratio
from bench.metrics.explain import most_active, precision, upsample
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.parts import NotComputableError, Part, part_of_totals

# One row per film, edited copy and network. edit: REMOVED, or "<label>=<class>" where a label was exchanged.
# delta: fall of the own-class logit from film to copy; sham: from film to sham (NaN: none was found); lift, area: of the
# film's own-class map and of C. These four are of REMOVED. rise: of the set class's probability, of an exchange.
COLUMNS = (*ROW_KEY, "network", "edit", "delta", "sham", "lift", "area", "rise")
REMOVED = "removed"
TRAINED = "trained"  # every other network of the table has random weights
HALF_LEVEL = 0.5 / 255  # what differs less than half a grey level of 8 bits is not changed
Which = Literal["all", "removed", "exchanged"]
Make = Callable[..., Part]  # of a frame and a network, by default the trained one


# ---- of one pair ----------------------------------------------------------------------------------------------------
def own_logit(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) the raw score of each row's class; of two classes less the other's, as for the AUROC. scores (N, K)."""
    rows = np.arange(len(labels))
    own = scores[rows, labels]
    return own - scores[rows, 1 - labels] if scores.shape[1] == 2 else own


def changed(film: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels in which an edited copy differs from its film; both in [0, 1]."""
    return np.abs(np.asarray(film, np.float64) - copy) > HALF_LEVEL


def region(changed_HW: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """C (H, W): the changed pixels dilated by one cell of a map of `cells` (h, w), in each direction, corners too."""
    reach = [-(-pixels // count) for pixels, count in zip(changed_HW.shape, cells, strict=True)]
    return np.asarray(ndimage.maximum_filter(changed_HW, size=[2 * r + 1 for r in reach], mode="constant"), bool)


def lift(map_hw: np.ndarray, changed_HW: np.ndarray) -> tuple[float, float]:
    """(share of the map's top 5 % pixels inside C) / area, and area, the share of the pixels that C covers.

    NaN where no pixel has changed. A map that does not vary is active everywhere and has lift 1.
    """
    if not changed_HW.any():
        return float("nan"), float("nan")
    (h, w), (height, width) = map_hw.shape, changed_HW.shape
    inside, active = region(changed_HW, (h, w)), most_active(upsample(map_hw[None], (height, width)))
    area = float(inside.mean())
    return float(precision(active, inside[None])[0]) / area, area


# ---- parts ----------------------------------------------------------------------------------------------------------
def _rows(frame: Frame, network: str) -> pd.DataFrame:
    """The pairs of a network whose film is a labelled row, with that row's patient, fold and label."""
    if frame.counterfactual is None:
        raise NotComputableError("the frame has no counterfactual pairs")
    facts = frame.labelled().predictions[[*ROW_KEY, "patient", "fold", "label"]].astype(dict.fromkeys(ROW_KEY, str))
    table = frame.counterfactual[frame.counterfactual["network"] == network]
    rows = table.astype(dict.fromkeys(ROW_KEY, str)).merge(facts, on=ROW_KEY, how="inner")
    if rows.empty:
        raise NotComputableError("no labelled row has a counterfactual pair")
    return rows


def _part(rows: pd.DataFrame, columns: np.ndarray, value, note: str = "", **limits) -> Part:  # type: ignore[no-untyped-def]
    patients, folds, labels = (rows[name].to_numpy() for name in ("patient", "fold", "label"))
    return part_of_totals(columns, patients, folds, labels, value, n=len(rows), note=note, **limits)


def _mean(rows: pd.DataFrame, values: np.ndarray, note: str = "", **limits) -> Part:  # type: ignore[no-untyped-def]
    return _part(rows, np.stack([values, np.ones(len(values))], axis=1), ratio, note, **limits)


def right_sign(frame: Frame, network: str = TRAINED, which: Which = "all") -> Part:
    """Share of pairs that go the right way: without its lesion a film's own-class logit falls; set to class k, p_k rises.

    No change counts half. Of two classes the removal of a lesion of class 0 (benign) has no right sign and is left out.
    """
    rows = _rows(frame, network)
    removed = rows["edit"] == REMOVED
    keep = {"all": removed | ~removed, "removed": removed, "exchanged": ~removed}[which]
    if len(frame.classes) == 2:
        keep &= ~removed | (rows["label"] == 1)
    if not keep.any():
        raise NotComputableError(f"no pair of this kind ({which}) has a right sign")
    rows = rows[keep]
    change = np.where(rows["edit"] == REMOVED, rows["delta"], rows["rise"])
    right = 0.5 * (1 + np.sign(change))
    count = int((rows["edit"] == REMOVED).sum())
    return _mean(rows, right, f"{count} removed, {len(rows) - count} exchanged", proportion=bool((change != 0).all()))


def against_sham(frame: Frame, network: str = TRAINED) -> Part:
    """AUROC of |delta| of removed lesions against that of their shams; a pair without a sham is left out of both."""
    rows = _removed(frame, network)
    with_sham = rows[rows["sham"].notna()]
    if with_sham.empty:
        raise NotComputableError("no pair has a sham")
    scores = np.abs(np.concatenate([with_sham["delta"], with_sham["sham"]]))
    of_lesion = np.repeat([1, 0], len(with_sham))
    patients, folds = (np.tile(with_sham[name].to_numpy(), 2) for name in ("patient", "fold"))
    part = auroc.part_of({"lesion": (1, scores)}, of_lesion, patients, folds)
    missing = len(rows) - len(with_sham)
    return replace(part, n=len(with_sham), note=f"{missing} of {len(rows)} pairs have no sham" if missing else "")


def map_lift(frame: Frame, network: str = TRAINED) -> Part:
    """Mean lift; 1 = a map that knows nothing of the change, at most the mean of 1 / area."""
    rows = _mapped(frame, network)
    return _mean(rows, rows["lift"].to_numpy(float), highest=np.inf)


def map_area(frame: Frame) -> Part:
    """Mean share of the image that C covers."""
    rows = _mapped(frame, TRAINED)
    return _mean(rows, rows["area"].to_numpy(float))


def lift_and_change(frame: Frame, network: str = TRAINED) -> Part:
    """Spearman's correlation of lift and |delta|. Ranks are those of all pairs (of a fold) in every resample, too."""
    rows = _mapped(frame, network)
    ranks = rows.assign(delta=rows["delta"].abs()).groupby("fold")[["lift", "delta"]].rank(pct=True).to_numpy() - 0.5
    x, y = ranks[:, 0], ranks[:, 1]

    def correlation(totals: np.ndarray) -> np.ndarray:
        mean = totals[..., :5] / totals[..., 5:]
        cross = mean[..., 4] - mean[..., 0] * mean[..., 1]
        spread = (mean[..., 2] - mean[..., 0] ** 2) * (mean[..., 3] - mean[..., 1] ** 2)
        return np.asarray(cross / np.sqrt(np.where(spread > 1e-12, spread, np.nan)))  # rounding leaves about 1e-17

    columns = np.stack([x, y, x * x, y * y, x * y, np.ones(len(x))], axis=1)
    return _part(rows, columns, correlation, lowest=-1.0)


def band(make: Make) -> Callable[[Frame], Part]:
    """The same measure of the networks with random weights: their mean; the interval is their range."""
    return partial(_band, make=make)


def _band(frame: Frame, make: Make) -> Part:
    if frame.counterfactual is None:
        raise NotComputableError("the frame has no counterfactual pairs")
    networks = sorted(set(frame.counterfactual["network"]) - {TRAINED})
    if not networks:
        raise NotComputableError("no network with random weights was asked")
    parts = [make(frame, network) for network in networks]
    values = tuple(part.value for part in parts)
    psi = np.mean([part.psi for part in parts], axis=0)
    return replace(parts[0], value=float(np.mean(values)), psi=psi, totals=None, note="", band=values)


def _removed(frame: Frame, network: str) -> pd.DataFrame:
    rows = _rows(frame, network)
    rows = rows[rows["edit"] == REMOVED]
    if rows.empty:
        raise NotComputableError("no labelled row has a copy without its lesion")
    return rows


def _mapped(frame: Frame, network: str) -> pd.DataFrame:
    rows = _removed(frame, network)
    rows = rows[rows["lift"].notna()]
    if rows.empty:
        raise NotComputableError("no pair has a map, or none has changed")
    return rows
