"""AUROC by placement values, clustered by patient; DeLong's variance for the parity column only.

Shapes: N cases, m positives, n negatives, k scorers, K classes, G patients.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from bench.metrics.frame import Frame
from bench.metrics.parts import NotComputableError, Part, by_patient, label_strata


def placements(positive: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC and the placement value of each case: the share of the other class that it stands on the right side of.

    positive (N) bool, score (N). Ties count half (midranks). NaN where a class is empty.
    """
    positive = np.asarray(positive, dtype=bool)
    m, n = int(positive.sum()), int((~positive).sum())
    values = np.full(len(positive), np.nan)
    if m == 0 or n == 0:
        return float("nan"), values
    pooled = rankdata(score)
    values[positive] = (pooled[positive] - rankdata(score[positive])) / n
    values[~positive] = 1.0 - (pooled[~positive] - rankdata(score[~positive])) / m
    return float(values[positive].mean()), values


def influence(positive: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC and psi (N): (placement - AUROC) / number of cases of the own class; sums to 0 within each class."""
    positive = np.asarray(positive, dtype=bool)
    value, placed = placements(positive, score)
    return value, (placed - value) / np.where(positive, positive.sum(), (~positive).sum())


def problems(frame: Frame) -> dict[str, tuple[int, np.ndarray]]:
    """One-vs-rest problems: name -> (class, score (N)). Two classes are one: the score of class 1 minus class 0's."""
    scores, classes = frame.scores, frame.classes
    if len(classes) == 2:
        return {classes[1]: (1, scores[:, 1] - scores[:, 0])}
    return {name: (i, scores[:, i]) for i, name in enumerate(classes)}


def part(frame: Frame, only: str | None = None) -> Part:
    """The macro one-vs-rest AUROC of a frame, or that of one class; folds are averaged, never pooled.

    A class without positives or negatives is left out, and the note says how many were used.
    """
    frame = frame.labelled()
    tasks = {name: task for name, task in problems(frame).items() if only in (None, name)}
    if not tasks:
        raise NotComputableError(f"the track {frame.track} has no class {only!r} of its own problem")
    table = frame.predictions
    return part_of(tasks, frame.labels, table["patient"].to_numpy(), table["fold"].to_numpy())


def part_of(
    tasks: dict[str, tuple[int, np.ndarray]], labels: np.ndarray, patients: np.ndarray, folds: np.ndarray | None = None
) -> Part:
    """`part` from arrays: tasks as `problems` gives them; labels, patients and folds (N)."""
    folds = np.zeros(len(labels), dtype=np.int64) if folds is None else folds
    names, position = by_patient(patients)
    psi, values, bounds = np.zeros(len(names)), [], []
    left_out: set[str] = set()
    reason, runs = "", np.unique(folds)
    for fold in runs:
        here = np.flatnonzero(folds == fold)
        found = {}
        for name, (index, score) in tasks.items():
            positive = labels[here] == index
            if positive.any() and not positive.all():
                found[name] = (positive, *influence(positive, score[here]))
            else:
                left_out.add(name)
        if not found:
            raise NotComputableError("no class has both positives and negatives among the labelled rows")
        values.append(float(np.mean([value for _, value, _ in found.values()])))
        for name, (positive, _, contribution) in found.items():
            np.add.at(psi, position[here], contribution / len(found) / len(runs))
            bound, few = _independent(position[here], positive)
            bounds.append(bound)
            reason = reason or (f"{name}: fewer than 2 patients on one side" if few else "")
    used = f"{len(tasks) - len(left_out)} of {len(tasks)} classes used; left out: {', '.join(sorted(left_out))}"
    strata = label_strata(position, labels, len(names))
    note = used if left_out else ""
    return Part(float(np.mean(values)), names, psi, strata, len(labels), note, open=reason, bound=min(bounds))


def prevalence_weighted(frame: Frame) -> float:
    """The one-vs-rest AUROCs weighted by the classes' counts: paper 002's average, for its parity column only."""
    labels = frame.labelled().labels
    parts = {index: part(frame, name).value for name, (index, _) in problems(frame).items()}
    return float(np.average(list(parts.values()), weights=[np.sum(labels == index) for index in parts]))


def _independent(position: np.ndarray, positive: np.ndarray) -> tuple[int, bool]:
    """How many pairs (positive, negative) of disjoint patients there are, and whether a side has fewer than 2."""
    with_positive, with_negative = np.unique(position[positive]), np.unique(position[~positive])
    either = len(np.union1d(with_positive, with_negative))
    pairs = min(len(with_positive), len(with_negative), either // 2)
    return pairs, min(len(with_positive), len(with_negative)) < 2


# ---- parity: DeLong, which takes cases as independent ---------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class DeLong:
    """auc (k) and their covariance cov (k, k); NaN covariance where a class has fewer than 2 cases."""

    auc: np.ndarray
    cov: np.ndarray

    def wald(self, level: float = 0.95, clip: bool = True) -> np.ndarray:
        """(k, 2): value -+ z SE, clipped to [0, 1] as the published scripts do."""
        half = norm.ppf(0.5 + level / 2) * np.sqrt(np.diag(self.cov))
        interval = np.stack([self.auc - half, self.auc + half], axis=1)
        return np.clip(interval, 0, 1) if clip else interval

    def logit(self, level: float = 0.95) -> np.ndarray:
        """(k, 2) on the logit scale; NaN where the AUROC is 0 or 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = np.log(self.auc / (1 - self.auc))
            half = norm.ppf(0.5 + level / 2) * np.sqrt(np.diag(self.cov)) / (self.auc * (1 - self.auc))
            return np.stack([1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))], axis=1)

    def paired(self, a: int = 0, b: int = 1) -> tuple[float, float, float, float]:
        """Difference, its variance, z and two-sided p. Variance 0: p is 1 where the values are equal, else NaN."""
        difference = float(self.auc[a] - self.auc[b])
        variance = float(self.cov[a, a] + self.cov[b, b] - 2 * self.cov[a, b])
        if variance <= 1e-15:
            return difference, 0.0, float("nan"), 1.0 if abs(difference) < 1e-15 else float("nan")
        z = difference / np.sqrt(variance)
        return difference, variance, float(z), float(2 * norm.sf(abs(z)))

    def log10_p(self, a: int = 0, b: int = 1) -> float:
        """log10 of the paired p, exact where p itself would be 0."""
        z = self.paired(a, b)[2]
        return float((np.log(2) + norm.logsf(abs(z))) / np.log(10))


def delong(positive: np.ndarray, scores: np.ndarray) -> DeLong:
    """DeLong 1988 with midranks: positive (N) bool, scores (k, N) of the same cases."""
    positive = np.asarray(positive, dtype=bool)
    m, n = int(positive.sum()), int((~positive).sum())
    placed = [placements(positive, np.asarray(score, dtype=np.float64)) for score in np.atleast_2d(scores)]
    auc = np.array([value for value, _ in placed])
    if m < 2 or n < 2:
        return DeLong(auc, np.full((len(auc), len(auc)), np.nan))
    values = np.stack([value for _, value in placed])
    cov = np.atleast_2d(np.cov(values[:, positive])) / m + np.atleast_2d(np.cov(values[:, ~positive])) / n
    return DeLong(auc, cov)
