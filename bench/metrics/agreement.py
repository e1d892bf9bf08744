"""Agreement of predicted and true class: accuracy, kappa, AC1, confusion; Brier score and calibration error.

Shapes: N rows, K classes, C (..., K, K) counts with the true class in rows and the predicted in columns.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bench.metrics.frame import Frame
from bench.metrics.parts import NotComputableError, Part, part_of_totals

Weights = Literal["none", "linear", "quadratic"]
BINS = 15


def confusion(frame: Frame) -> pd.DataFrame:
    """Counts: rows the true class, columns the predicted class. Folds are summed."""
    frame = frame.labelled()
    table = pd.DataFrame(counts(frame), index=list(frame.classes), columns=list(frame.classes))
    return table.rename_axis(index="true", columns="predicted")


def counts(frame: Frame) -> np.ndarray:
    """(K, K) int64 of a labelled frame."""
    size = len(frame.classes)
    cells = frame.labels * size + frame.predicted
    return np.bincount(cells, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa; standard errors for the parity column: non-null and null (Fleiss, Cohen, Everitt 1969), simple."""

    value: float
    se: float
    se_null: float
    agreement: float
    se_simple: float


def disagreement(size: int, weights: Weights = "none") -> np.ndarray:
    """(K, K) weights of agreement: 1 on the diagonal; none: 0 elsewhere; linear, quadratic: falling with distance."""
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(size - 1, 1)
    if weights == "none":
        return np.eye(size)
    return 1 - distance if weights == "linear" else 1 - distance**2


def kappa_value(table: np.ndarray, weights: Weights = "none") -> np.ndarray:
    """Cohen's kappa of counts (..., K, K); NaN where chance agreement is 1."""
    share = table / table.sum(axis=(-2, -1), keepdims=True)
    weight = disagreement(table.shape[-1], weights)
    observed = np.sum(weight * share, axis=(-2, -1))
    chance = np.sum(weight * share.sum(axis=-1)[..., :, None] * share.sum(axis=-2)[..., None, :], axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(1 - chance > 1e-12, (observed - chance) / (1 - chance), np.nan)


def kappa(table: np.ndarray, weights: Weights = "none") -> Kappa:
    """Cohen's kappa of one table of counts (K, K), with the standard errors of the literature."""
    total = table.sum()
    share, weight = table / total, disagreement(len(table), weights)
    row, column = share.sum(axis=1), share.sum(axis=0)
    observed, chance = float(np.sum(weight * share)), float(row @ weight @ column)
    value = float(kappa_value(table, weights))
    if not np.isfinite(value):
        nan = float("nan")
        return Kappa(nan, nan, nan, nan, nan)
    mean = (weight @ column)[:, None] + (row @ weight)[None, :]
    non_null = np.sum(share * (weight - mean * (1 - value)) ** 2) - (value - chance * (1 - value)) ** 2
    null = np.sum(np.outer(row, column) * (weight - mean) ** 2) - chance**2
    se, se_null = (float(np.sqrt(max(v, 0) / total) / (1 - chance)) for v in (non_null, null))
    simple = float(np.sqrt(observed * (1 - observed) / total) / (1 - chance)) if weights == "none" else float("nan")
    return Kappa(value, se, se_null, observed, simple)


def ac1_value(table: np.ndarray) -> np.ndarray:
    """Gwet's AC1 of counts (..., K, K): chance agreement from sum p(1-p)/(K-1), which survives skewed classes."""
    share = table / table.sum(axis=(-2, -1), keepdims=True)
    observed = np.trace(share, axis1=-2, axis2=-1)
    mean = (share.sum(axis=-1) + share.sum(axis=-2)) / 2
    chance = np.sum(mean * (1 - mean), axis=-1) / (table.shape[-1] - 1)
    return (observed - chance) / (1 - chance)


def balanced_accuracy_value(table: np.ndarray) -> np.ndarray:
    """Mean over the classes present of the share found, of counts (..., K, K)."""
    size = table.sum(axis=-1)
    found = np.diagonal(table, axis1=-2, axis2=-1) / np.where(size > 0, size, np.nan)
    present = np.maximum(np.sum(size > 0, axis=-1), 1)
    return np.asarray(np.nansum(found, axis=-1) / present)


# ---- parts ----------------------------------------------------------------------------------------------------------
def accuracy(frame: Frame) -> Part:
    """Share of rows whose most probable class is the true one."""
    frame = frame.labelled()
    right = (frame.predicted == frame.labels).astype(np.float64)
    return _part(frame, np.stack([right, np.ones_like(right)], axis=1), ratio, proportion=True)


def kappa_part(frame: Frame, weights: Weights = "none") -> Part:
    return _cells(frame, lambda table: kappa_value(table, weights), lowest=-1.0)


def ac1(frame: Frame) -> Part:
    return _cells(frame, ac1_value, lowest=-1.0)


def balanced_accuracy(frame: Frame) -> Part:
    return _cells(frame, balanced_accuracy_value)


def brier(frame: Frame) -> Part:
    """Mean squared distance of the probabilities from the truth: (p - y)^2 for two classes, summed over more."""
    frame = frame.labelled()
    off = frame.probabilities - np.eye(len(frame.classes))[frame.labels]
    squares = np.sum(off**2, axis=1) if len(frame.classes) > 2 else off[:, 1] ** 2
    highest = 2.0 if len(frame.classes) > 2 else 1.0
    return _part(frame, np.stack([squares, np.ones_like(squares)], axis=1), ratio, highest=highest)


def bins(probability: np.ndarray, closed: Literal["right", "left"] = "right") -> np.ndarray:
    """Bin (0..14) of each probability: equal widths, closed on the right with 0 in the first, or closed on the left."""
    scaled = probability * BINS
    nearest = np.rint(scaled)
    scaled = np.where(np.abs(scaled - nearest) < 1e-9, nearest, scaled)  # 0.2 * 15 is 3.0000000000000004
    index = np.ceil(scaled) - 1 if closed == "right" else np.floor(scaled)
    return np.clip(index, 0, BINS - 1).astype(np.int64)


def calibration_error(frame: Frame) -> Part:
    """ECE: mean over 15 bins of |share right - mean probability|, of class 1, or of the top label for K > 2."""
    frame = frame.labelled()
    probabilities, labels = frame.probabilities, frame.labels
    if len(frame.classes) == 2:
        stated, came = probabilities[:, 1], (labels == 1).astype(np.float64)
    else:
        stated, came = probabilities.max(axis=1), (frame.predicted == labels).astype(np.float64)
    place = np.eye(BINS)[bins(stated)]
    rows = np.concatenate([place * (came - stated)[:, None], np.ones((len(labels), 1))], axis=1)
    note = "upward biased in small samples; where it is small, the interval often lies beside the truth"
    return _part(
        frame, rows, lambda totals: np.abs(totals[..., :-1]).sum(axis=-1) / totals[..., -1], note=note, biased=True
    )


def ratio(totals: np.ndarray) -> np.ndarray:
    """Column 0 over column 1 of totals (..., 2)."""
    return totals[..., 0] / totals[..., 1]


def _cells(frame: Frame, value, lowest: float = 0.0) -> Part:  # type: ignore[no-untyped-def]
    frame = frame.labelled()
    size = len(frame.classes)
    rows = np.eye(size * size)[frame.labels * size + frame.predicted]
    return _part(frame, rows, lambda totals: value(totals.reshape(*totals.shape[:-1], size, size)), lowest=lowest)


def _part(frame: Frame, rows: np.ndarray, value, **more) -> Part:  # type: ignore[no-untyped-def]
    table = frame.predictions
    if table.empty:
        raise NotComputableError("no labelled row")
    patients, folds = table["patient"].to_numpy(), table["fold"].to_numpy()
    return part_of_totals(rows, patients, folds, frame.labels, value, n=len(table), **more)
