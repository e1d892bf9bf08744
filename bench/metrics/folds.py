"""What a cross-validation prints, and tests between two methods over its folds, each by its name (docs/metrics/folds.md).

Shapes: F folds, G patients, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2, permutation_test
from scipy.stats import t as student

from bench.metrics.agreement import balanced_accuracy_value
from bench.metrics.auroc import part as auroc_part
from bench.metrics.frame import ROW_KEY, Frame
from data.errors import DataError

RESAMPLES = 10_000
EXACT_BELOW = 25  # discordant lesions, as the usual rule has it
SEED = 20240103  # of the sign-flips


class Over(NamedTuple):
    """One seed over its folds, as paper 003's tables print it."""

    accuracy: np.ndarray  # (F,) of each fold
    auroc: np.ndarray  # (F,)
    confusion: np.ndarray  # (K, K) summed over folds, true class in rows; matrices are never averaged

    @property
    def pooled(self) -> float:
        """Share of right classes over all folds together."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def balanced(self) -> float:
        """Mean over classes of the share found, of the summed matrix."""
        return float(balanced_accuracy_value(self.confusion))

    @property
    def gap(self) -> float:
        """Largest less least share found of a class: |TPR - TNR| of two. 0 is what the paper calls unbiased."""
        found = np.diag(self.confusion) / self.confusion.sum(axis=1)
        return float(found.max() - found.min())


def over_folds(frame: Frame) -> Over:
    """Of one seed's frame, its folds put together. Raises DataError where there is one fold."""
    rows = frame.labelled()
    folds = [rows.subset((rows.predictions["fold"] == fold).to_numpy(), f"fold {fold}") for fold in _folds(rows)]
    size = len(rows.classes)
    confusion = np.bincount(rows.labels * size + rows.predicted, minlength=size * size).reshape(size, size)
    accuracy = np.array([float(np.mean(one.predicted == one.labels)) for one in folds])
    return Over(accuracy, np.array([auroc_part(one).value for one in folds]), confusion)


def _folds(frame: Frame) -> list[int]:
    folds = sorted(int(fold) for fold in frame.predictions["fold"].unique())
    if len(folds) < 2:
        raise DataError("these rows have one fold", "folds", "give runs of the protocol kfold5")
    return folds


# ---- tests -------------------------------------------------------------------------------------------------------
def corrected_t(a_F: np.ndarray, b_F: np.ndarray) -> float:
    """Nadeau and Bengio's corrected resampled t test over folds, two-sided p: the variance of the mean difference is
    (1/F + 1/(F - 1)) s^2, the second part for training sides that overlap (a test side is 1/(F - 1) of what trains and
    validates). NaN where the folds do not differ among themselves."""
    d, count = np.asarray(a_F) - np.asarray(b_F), len(a_F)
    spread = float(np.var(d, ddof=1)) * (1 / count + 1 / (count - 1))
    return float(2 * student.sf(abs(d.mean()) / np.sqrt(spread), count - 1)) if spread > 1e-24 else float("nan")


def same_folds(a: Frame, b: Frame) -> bool:
    """Whether the same rows are judged in the same folds: only then a fold of one pairs with that of the other."""
    one, other = (frame.labelled().predictions[[*ROW_KEY, "fold"]].astype(str) for frame in (a, b))
    return set(map(tuple, one.to_numpy())) == set(map(tuple, other.to_numpy()))


def sign_flip(a: Sequence[Frame], b: Sequence[Frame]) -> float:
    """Over the pooled lesions: the difference in right classes, patients exchanged between the methods as a whole, two-sided
    p by 10,000 seeded flips (exact where patients are few). a, b: one frame a seed; rights are averaged over seeds."""
    right_a, right_b = _right_of_patients(a), _right_of_patients(b)
    if not right_a.index.equals(right_b.index):
        raise DataError("frames of different test rows", "comparison", "compare runs of the same data and folds")
    x, y = right_a.to_numpy(), right_b.to_numpy()
    if np.allclose(x, y):
        return 1.0
    found = permutation_test(
        (x, y), lambda u, v, axis: np.sum(u - v, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=RESAMPLES, rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(found.pvalue)


def _right_of_patients(frames: Sequence[Frame]) -> "pd.Series[float]":
    """Lesions of a patient that were classified rightly, averaged over seeds."""
    parts = []
    for frame in frames:
        rows = frame.labelled()
        right = pd.Series((rows.predicted == rows.labels).astype(float), index=rows.predictions["patient"].to_numpy())
        parts.append(right.groupby(level=0).sum())
    found: pd.Series[float] = pd.concat(parts, axis=1).mean(axis=1).sort_index()
    return found


def mcnemar(b: int, c: int) -> float:
    """Two-sided p of the discordant counts: exact below 25 of them, else chi-square with continuity correction."""
    if b + c == 0:
        return 1.0
    if b + c < EXACT_BELOW:
        return float(min(1.0, binomtest(min(b, c), b + c).pvalue))
    return float(chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), 1))


def discordant(a: Frame, b: Frame) -> tuple[int, int]:
    """(lesions that a alone has right, lesions that b alone has right) of one seed each: the parity column's test."""
    rows = []
    for frame in (a, b):
        one = frame.labelled()
        keys = one.predictions[list(ROW_KEY)].astype(str)
        rows.append(keys.assign(right=one.predicted == one.labels).set_index(list(ROW_KEY))["right"].sort_index())
    if not rows[0].index.equals(rows[1].index):
        raise DataError("frames of different test rows", "comparison", "compare runs of the same data and folds")
    return int((rows[0] & ~rows[1]).sum()), int((~rows[0] & rows[1]).sum())
