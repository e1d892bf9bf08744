"""What intervals need of a metric on one frame: its value, and how much each patient moves it.

Shapes: G patients, D statistics, R runs (folds of one seed), K seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Value = Callable[[np.ndarray], np.ndarray]  # totals (..., D) -> values (...)


class NotComputableError(Exception):
    """Why this frame does not allow a metric, in words: no masks, no maps, another track."""


@dataclass(frozen=True, eq=False)
class Totals:
    """A metric that is a function of sums over patients: `value` of the column sums of each run, mean over runs.

    stats: R arrays (G, D); D may differ between runs (one column a prototype). lowest, highest: the metric's range.
    proportion: the value is a share of cases, mostly column 0 / column 1; where resamples do not vary its interval is Wilson's
    on `cases` patients (0: all). biased: small samples shift the value (an effective number), so that BCa fails: the
    jackknife gives its interval.
    """

    stats: Sequence[np.ndarray]
    value: Value
    lowest: float = 0.0
    highest: float = 1.0
    proportion: bool = False
    biased: bool = False
    cases: int = 0

    def full(self) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.mean([self.value(run.sum(axis=0)) for run in self.stats]))

    def jackknife(self) -> np.ndarray:
        """(G,) the value without each patient."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.mean([self.value(run.sum(axis=0) - run) for run in self.stats], axis=0))

    def resampled(self, weights_BG: np.ndarray) -> np.ndarray:
        """(B,) the value of each resample, given how often it holds each patient."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.mean([self.value(weights_BG @ run) for run in self.stats], axis=0))


@dataclass(frozen=True, eq=False)
class Part:
    """A metric of one seed's frame. patients (G) sorted; psi (G) sums to 0; G/(G-1) sum(psi^2) is their variance.

    strata (G): patients with the same set of labels; degrees of freedom are counted by stratum (Welch). bound: number
    of independent comparisons behind a value of exactly 0 or 1. open: why there is no interval ("": there is one).
    totals: where the bootstrap gives the interval; None: the logit-t interval of psi. of_model: the value is a fact of
    the trained network and no mean over patients (psi is 0): its interval is that of seeds, and n may differ between them.
    highest: what such a fact cannot exceed; it is 0 at least.
    band: the values of several networks with random weights, whose mean the value is: its interval is their range.
    """

    value: float
    patients: np.ndarray
    psi: np.ndarray
    strata: np.ndarray
    n: int
    note: str = ""
    open: str = ""
    bound: int = 0
    totals: Totals | None = None
    of_model: bool = False
    highest: float = 1.0
    band: tuple[float, ...] = ()

    @property
    def variance(self) -> float:
        return patient_variance(self.psi)


def patient_variance(psi_G: np.ndarray) -> float:
    """Variance of a value whose patients' contributions are psi: G/(G-1) sum(psi^2) (docs/metrics/auroc.md)."""
    count = len(psi_G)
    return float(count / (count - 1) * np.sum(psi_G**2)) if count > 1 else float("nan")


def patient_freedom(psi_G: np.ndarray, strata_G: np.ndarray) -> float:
    """Degrees of freedom of `patient_variance`, by Satterthwaite over strata of patients.

    With one image per patient and two classes these are Welch's. A stratum of one patient counts as one degree.
    """
    sums = np.bincount(strata_G, weights=psi_G**2)
    counts = np.bincount(strata_G)
    sums, counts = sums[counts > 0], counts[counts > 0]
    spread = float(np.sum(sums**2 / np.maximum(counts - 1, 1)))
    return float(sums.sum() ** 2 / spread) if spread > 0 else float(max(len(psi_G) - 1, 1))


def by_patient(patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct patients (G) and each row's position among them (N)."""
    names, position = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return names, position


def label_strata(position: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(G,) patients by the set of their labels, numbered from 0."""
    sets = np.zeros(count, dtype=np.int64)
    np.bitwise_or.at(sets, position, np.left_shift(1, labels))
    return np.unique(sets, return_inverse=True)[1]


def part_of_totals(
    rows: np.ndarray,
    patients: np.ndarray,
    folds: np.ndarray,
    labels: np.ndarray,
    value: Value,
    *,
    n: int,
    note: str = "",
    lowest: float = 0.0,
    highest: float = 1.0,
    proportion: bool = False,
    biased: bool = False,
    cases: int = 0,
) -> Part:
    """A Part from rows' statistics (N, D). psi is the jackknife's: (G-1)/G of what leaving the patient out changes."""
    names, position = by_patient(patients)
    runs = np.unique(folds)
    stats = np.zeros((len(runs), len(names), rows.shape[1]))
    for r, fold in enumerate(runs):
        here = folds == fold
        np.add.at(stats[r], position[here], rows[here])
    totals = Totals(tuple(stats), value, lowest, highest, proportion, biased, cases)
    full, without = totals.full(), totals.jackknife()
    centred = np.nanmean(without) - without if np.isfinite(without).any() else np.zeros(len(names))
    psi = np.nan_to_num(centred * (len(names) - 1) / max(len(names), 1))
    strata = label_strata(position, np.maximum(labels, 0), len(names))
    return Part(full, names, psi, strata, n, note, totals=totals)
