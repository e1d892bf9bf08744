"""Thresholds that validation chooses, and what the test side gives at them: sensitivity, specificity, accuracy
(docs/metrics/sensitivity.md).

Shapes: N rows, T thresholds of maps.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from bench.metrics.agreement import ratio
from bench.metrics.detection import THRESHOLDS, best_threshold
from bench.metrics.found import films, found
from bench.metrics.frame import Frame
from bench.metrics.parts import NotComputableError, Part, part_of_totals

POINTS = "operating"  # key of a frame's meta: {variant: {"score": ..., "map": ...}}, as `operating_points` gives them
BY_FOLD = "operating_by_fold"  # of a frame of several folds: {fold: the same}
Point = Literal["score", "map"]


def operating_points(frame: Frame) -> dict[str, dict[str, float]]:
    """{variant: {"score": threshold of the probability, "map": threshold of the map}} of a validation frame.

    score: of the second of two classes, by Youden's index. map: the highest TPR on films with a mass, then the lowest FPPI, then
    the highest threshold. What the frame does not allow is left out.
    """
    return {variant: _points(frame.of_variant(variant)) for variant in frame.variants}


def _points(frame: Frame) -> dict[str, float]:
    rows, points = frame.labelled(), {}
    if len(frame.classes) == 2:
        score = youden(rows.probabilities[:, 1], rows.labels == 1)
        if score is not None:
            points["score"] = score
    try:
        total = found(frame).tally[~films(frame).normal].sum(axis=0)
    except NotComputableError:  # no boxes of lesions, or no map: the track's question is another
        return points
    return points | {"map": THRESHOLDS[int(best_threshold(total[:, 0], total[:, 1]))]}


def youden(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The threshold with the highest TPR + TNR, positive being what is at or above it; the lowest of several.

    Of the midpoints between distinct scores; None where there is none, or one class alone.
    """
    distinct = np.unique(scores)
    if len(distinct) < 2 or positive.all() or not positive.any():
        return None
    cuts = (distinct[1:] + distinct[:-1]) / 2
    above = np.searchsorted(np.sort(scores[positive]), cuts, side="left") / positive.sum()
    below = np.searchsorted(np.sort(scores[~positive]), cuts, side="left") / (~positive).sum()
    index = below - above  # TNR + TPR - 1, as TPR = 1 - the share of positives below the cut
    return float(cuts[np.flatnonzero(index >= index.max() - 1e-12)[0]])


def chosen(frame: Frame, point: Point) -> dict[int, float]:
    """The threshold of each fold of the frame's first variant. Raises NotComputableError where validation chose none."""
    thresholds: dict[int, float] = {}
    variant = dict(frame.meta.get("variant_of") or {}).get(frame.variants[0], frame.variants[0])
    for fold in frame.labelled().predictions["fold"].unique():
        points = dict(frame.meta[BY_FOLD]).get(str(fold)) if BY_FOLD in frame.meta else frame.meta.get(POINTS)
        value = dict((points or {}).get(variant) or {}).get(point)
        if value is None:
            raise NotComputableError(f"validation has chosen no threshold of the {point}")
        thresholds[int(fold)] = float(value)
    return thresholds


def in_words(thresholds: dict[int, float]) -> str:
    """For a note: the threshold, or those of all folds."""
    several = len(thresholds) > 1
    return f"threshold{'s' if several else ''} {', '.join(f'{value:.3g}' for value in thresholds.values())}"


# ---- parts ----------------------------------------------------------------------------------------------------------
def share_right(frame: Frame, label: int | None) -> Part:
    """Share of the rows of one class, or of all, that lie on the right side of the score's threshold."""
    thresholds = chosen(frame, "score")
    frame = frame.labelled()
    keep = np.ones(len(frame.labels), bool) if label is None else frame.labels == label
    if not keep.any():
        raise NotComputableError(f"no row of class {frame.classes[label]}" if label is not None else "no labelled row")
    table, labels = frame.predictions[keep], frame.labels[keep]
    folds = table["fold"].to_numpy()
    at = np.array([thresholds[int(fold)] for fold in folds])
    right = ((frame.probabilities[keep, 1] >= at) == (labels == 1)).astype(np.float64)
    rows = np.stack([right, np.ones_like(right)], axis=1)
    patients = table["patient"].to_numpy()
    return part_of_totals(
        rows, patients, folds, labels, ratio, n=len(table), note=in_words(thresholds), proportion=True
    )


# name, maker, summary
FACTS: tuple[tuple[str, Callable[[Frame], Part], str], ...] = (
    ("sensitivity", partial(share_right, label=1), "share of the second class found, at validation's threshold"),
    ("specificity", partial(share_right, label=0), "share of the first class left alone, at validation's threshold"),
    ("accuracy_chosen", partial(share_right, label=None), "share of right classes, at validation's threshold"),
)
