"""Boxes from maps, and what boxes find: regions above thresholds, overlap, matching, free-response curves (docs/metrics/froc.md).

Pure functions. Shapes: n boxes and m lesions, each x0 y0 x1 y1, half-open; T thresholds; H W pixels of the grid that a map
is read on. Where paper 004 and its authors' code leave room, `Rules` names the readings.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # the authors' grid; the paper prints none
CPM = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # false positives per image that the mean sensitivity is taken at
LONGEST = 512  # pixels of the grid's longer side: regions of a map of few cells do not sharpen beyond it
MERGED = 0.5  # two boxes of different thresholds with a larger IoU are the same finding
CONSTANT = 1e-9  # of the values' size: a map whose range is smaller is constant, as resizing rounds


@dataclass(frozen=True)
class Rules:
    """How a map becomes boxes and how boxes meet lesions; the defaults are this project's.

    norm: minmax (x - min) / (max - min), author (x - min) / max, none. thresholds ascend; a pixel is in a region above, not at
    one. components external: without those that lie in a hole of another. match: see `counts`. iou_cmp: > or >= iou.
    """

    norm: Literal["minmax", "author", "none"] = "minmax"
    thresholds: tuple[float, ...] = THRESHOLDS
    connectivity: Literal[4, 8] = 8
    components: Literal["all", "external"] = "all"
    match: Literal["lesion_any", "one_to_one", "author"] = "lesion_any"
    iou: float = 0.3
    iou_cmp: Literal["gt", "ge"] = "gt"


OURS = Rules()
AUTHORS = Rules(
    norm="author", components="external", match="author", iou=0.1, iou_cmp="ge"
)  # the code beside paper 004


@dataclass(frozen=True, eq=False)
class Regions:
    """What lies above the thresholds in one image: boxes (n, 4), level (n) index of the threshold, peak (n) the highest
    value in the region, not normalised."""

    boxes: np.ndarray
    level: np.ndarray
    peak: np.ndarray

    def at(self, level: int) -> np.ndarray:
        """(k, 4) the boxes of one threshold."""
        return np.asarray(self.boxes[self.level == level])

    def scaled(self, x: float, y: float) -> "Regions":
        return Regions(self.boxes * np.array([x, y, x, y]), self.level, self.peak)


# ---- boxes of a map -------------------------------------------------------------------------------------------------
def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the grid for an input of this size: the input's own, or shrunk to 512 pixels on the longer side."""
    shrink = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def normalised(one_HW: np.ndarray, norm: Literal["minmax", "author", "none"]) -> np.ndarray:
    """A map with its thresholds' scale; 0 everywhere if it is constant."""
    if norm == "none":
        return one_HW
    low, high = one_HW.min(), one_HW.max()
    span = high - low
    by = span if norm == "minmax" else high
    if span <= CONSTANT * np.abs(one_HW).max() or by <= 0:
        return np.zeros_like(one_HW)
    return np.asarray((one_HW - low) / by)


def regions(one_HW: np.ndarray, rules: Rules = OURS) -> Regions:
    """The connected regions above each threshold, with tight boxes, in pixels of the map."""
    unit = normalised(one_HW, rules.norm)
    structure = ndimage.generate_binary_structure(2, 2 if rules.connectivity == 8 else 1)
    boxes: list[tuple[int, int, int, int]] = []
    levels: list[int] = []
    peaks: list[float] = []
    top, left, bottom, right = 0, 0, *one_HW.shape
    for level, threshold in enumerate(rules.thresholds):
        here = slice(top, bottom), slice(left, right)
        labels, _ = ndimage.label(unit[here] > threshold, structure)
        places = ndimage.find_objects(labels)
        if not places:
            break
        kept = _external(labels, rules.connectivity) if rules.components == "external" else range(1, len(places) + 1)
        for i in kept:
            rows, columns = places[i - 1]
            boxes.append((left + columns.start, top + rows.start, left + columns.stop, top + rows.stop))
            levels.append(level)
            peaks.append(float(one_HW[here][rows, columns][labels[rows, columns] == i].max()))
        # regions of the next threshold lie in these: only their window is looked at again
        bottom, right = top + max(y.stop for y, _ in places), left + max(x.stop for _, x in places)
        top, left = top + min(y.start for y, _ in places), left + min(x.start for _, x in places)
    return Regions(np.array(boxes, float).reshape(-1, 4), np.array(levels, np.int64), np.array(peaks, float))


def _external(labels: np.ndarray, connectivity: int) -> list[int]:
    """Labels of the components that touch the background outside of all components. What lies in a hole does not.

    The background is connected the other way: 4 where components are 8-connected, else a hole would leak at a corner.
    """
    framed = np.pad(labels, 1)
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 8 else 2)
    outside = ~ndimage.binary_fill_holes(framed > 0, structure)
    touched = np.unique(framed[ndimage.binary_dilation(outside, structure)])
    return [int(i) for i in touched if i > 0]


def of_scores(boxes_n5: np.ndarray, rules: Rules = OURS) -> Regions:
    """Boxes that a detector gives itself, with score, at each threshold of the grid that their score is above."""
    score = boxes_n5[:, 4]
    level, which = np.nonzero(score[None, :] > np.array(rules.thresholds)[:, None])
    return Regions(boxes_n5[which, :4], level, score[which])


# ---- overlap and counts ---------------------------------------------------------------------------------------------
def area(boxes: np.ndarray) -> np.ndarray:
    """(n,) of boxes (n, 4)."""
    return np.asarray(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) area that each of a (n, 4) shares with each of b (m, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=2))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union; 0 where both are empty."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def hits(boxes: np.ndarray, lesions: np.ndarray, rules: Rules = OURS) -> np.ndarray:
    """(n, m) bool: which box overlaps which lesion enough."""
    overlap = iou(boxes, lesions)
    return overlap > rules.iou if rules.iou_cmp == "gt" else overlap >= rules.iou


def counts(boxes: np.ndarray, lesions: np.ndarray, rules: Rules = OURS) -> tuple[int, int, int]:
    """TP, FP and FN of one image.

    lesion_any: a lesion is found if any box hits it; a box that hits none is an FP. one_to_one: pairs by falling IoU, each box
    and lesion once; boxes left over are FPs. author: lesion by lesion, every box that hits it is a TP and every other an FP,
    a lesion without a hit an FN; so a box counts once for each lesion of its image.
    """
    hit = hits(boxes, lesions, rules)
    if rules.match == "author":
        return int(hit.sum()), int((~hit).sum()), int((~hit.any(axis=0)).sum())
    found = int(hit.any(axis=0).sum())
    false = int((~hit.any(axis=1)).sum())
    if rules.match == "one_to_one":
        found = _pairs(iou(boxes, lesions), hit)
        false = len(boxes) - found
    return found, false, len(lesions) - found


def _pairs(overlap: np.ndarray, hit: np.ndarray) -> int:
    """Number of pairs of one box and one lesion, taken by falling overlap."""
    box, lesion = np.nonzero(hit)
    taken: set[tuple[str, int]] = set()
    pairs = 0
    for i in np.argsort(-overlap[box, lesion], kind="stable"):
        both = {("box", int(box[i])), ("lesion", int(lesion[i]))}
        if not taken & both:
            taken |= both
            pairs += 1
    return pairs


def tally(found: Regions, lesions: np.ndarray, rules: Rules = OURS) -> np.ndarray:
    """(T, 3) int64: TP, FP and FN of one image at each threshold."""
    return np.array([counts(found.at(level), lesions, rules) for level in range(len(rules.thresholds))], np.int64)


def best_threshold(tpr: np.ndarray, fppi: np.ndarray) -> np.ndarray:
    """(...) index of the threshold with the highest TPR; of several the lowest FPPI, then the highest threshold (..., T)."""
    false = np.where(tpr == tpr.max(axis=-1, keepdims=True), fppi, np.inf)
    chosen = false == false.min(axis=-1, keepdims=True)
    return np.asarray(chosen.shape[-1] - 1 - np.argmax(chosen[..., ::-1], axis=-1))


# ---- free response --------------------------------------------------------------------------------------------------
def merged(found: Regions, score: np.ndarray) -> np.ndarray:
    """Positions of the boxes that stay when those of all thresholds are merged, best first.

    Greedy: by falling score, of equal ones the higher threshold first; what overlaps one that stays by an IoU above 0.5 goes.
    """
    order = np.lexsort((-found.level, -score))
    boxes = found.boxes[order]
    same = iou(boxes, boxes) > MERGED
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~same[i, i + 1 :]
    return np.asarray(order[alive])


def free_response(
    boxes: np.ndarray, score: np.ndarray, lesions: np.ndarray, rules: Rules = OURS
) -> tuple[np.ndarray, np.ndarray]:
    """Of one image: (m,) each lesion's score, the best of the boxes that hit it, -inf if none; (k,) those of the other boxes."""
    hit = hits(boxes, lesions, rules)
    best = np.where(hit, score[:, None], -np.inf).max(axis=0, initial=-np.inf)
    return best, np.asarray(score[~hit.any(axis=1)])


def curve(lesions: np.ndarray, false: np.ndarray, images: int) -> np.ndarray:
    """(P, 3) score, TPR and FPPI at each distinct score, falling. lesions: all lesions' scores; false: those of FPs."""
    points = np.unique(np.concatenate([lesions[np.isfinite(lesions)], false]))[::-1]
    return np.stack([points, at_least(lesions, points) / len(lesions), at_least(false, points) / images], axis=1)


def at_least(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(P,) how many values are as high as each score."""
    return np.asarray(len(values) - np.searchsorted(np.sort(values), scores, side="left"))


def sensitivity(points: np.ndarray, at: float, rule: Literal["step", "linear"] = "step") -> float:
    """Of a `curve`: the highest TPR with no more than `at` false positives per image; linear: interpolated (MONAI's rule)."""
    tpr, fppi = np.concatenate([[0.0], points[:, 1]]), np.concatenate([[0.0], points[:, 2]])
    return float(tpr[fppi <= at].max()) if rule == "step" else float(np.interp(at, fppi, tpr))
